//! The relative path of a unix-domain listener. Runs in a process of its own, because the working
//! directory belongs to the process.

use std::fs::{self, File};

use sockman::{Service, SockMan};
use sockman_test_support::{Recorder, child::in_child, tools::TempDir, without_sweep};

/// `stop_listening` removes the file that `bind` made, and not a file of the same name elsewhere.
#[cfg(unix)]
#[test]
fn a_relative_path_is_found_again_after_a_change_of_directory() {
    in_child(a_relative_path_is_found_again_after_a_change_of_directory, || {
        let dir = TempDir::new();
        let (here, there) = (dir.path("here"), dir.path("there"));
        fs::create_dir(&here).unwrap();
        fs::create_dir(&there).unwrap();
        std::env::set_current_dir(&here).unwrap();
        let sockman = SockMan::new(Recorder::new(), without_sweep()).unwrap();
        sockman.bind_and_start_listening(Service::unix("sock").unwrap()).unwrap();
        std::env::set_current_dir(&there).unwrap();
        File::create("sock").unwrap();
        sockman.stop_listening();
        assert!(there.join("sock").exists());
        assert!(!here.join("sock").exists());
    });
}
