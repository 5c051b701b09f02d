//! A node that runs until Ctrl-C and shows its table of peers.
//!
//! The main thread prints. The node's observer sends it events over a bounded channel, and a thread
//! of its own waits for signals.

use std::{
    collections::VecDeque,
    error::Error,
    io::{self, IsTerminal},
    path::Path,
    sync::{
        Arc, OnceLock,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

use sockman::Interrupt;
use sockman_http_rpc::{
    self as http,
    rpc::{Cookie, CookieFile, RpcService},
};
use sockman_https::AnyServer;
use sockman_node::{Allowance, BlockStore, BlockStoreError, Chain, Config, Event, Node};

use crate::{
    args::Rpc,
    methods::NodeMethods,
    report::{self, Cause, say},
    web::{Line, Web},
};

/// The time between two updates of the table on a terminal, where it stays in place.
const REFRESH_ON_TERMINAL: Duration = Duration::from_secs(1);
/// The time between two tables in a log.
const REFRESH_IN_LOG: Duration = Duration::from_secs(60);
/// The time between two checks that the node still runs.
const LOOK_AROUND: Duration = Duration::from_secs(1);
/// The most events that wait to be printed. If standard output blocks, further events are lost, so
/// that the node neither waits nor grows.
const MAX_WAITING_LINES: usize = 1000;
/// The most lines that established peers cause in a log, and the time after which they may cause as
/// many again. Other lines about inbound peers need `RUST_LOG=node=debug`, because anybody could
/// fill the disk with them.
const MAX_PEER_LINES: u32 = 20;
const PEER_LINES_PERIOD: Duration = Duration::from_secs(60);
/// The number of last events below the table on a terminal.
const LAST_EVENTS: usize = 12;
/// Erases the screen and moves the cursor to the upper left corner.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// An input of the printing loop.
enum Input {
    Event(Event),
    Signal,
}

/// Runs a node until it is interrupted. `blocks` is the path of the blocks that the node serves.
///
/// # Errors
///
/// An error, if the node does not start (for example because an address is in use), or if one of
/// its threads fails.
pub(crate) fn run(
    mut config: Config,
    rpc: &Rpc,
    blocks: Option<&Path>,
) -> Result<(), Box<dyn Error>> {
    // This may take long, so a signal still ends the process meanwhile.
    let chain = match blocks {
        Some(path) => open_blocks(&mut config, path)?,
        None => Chain::new(config.network),
    };
    let interrupt = Interrupt::new();
    let (sender, inputs) = sync_channel(MAX_WAITING_LINES);
    // Signals are caught before the node starts, so that Ctrl-C always stops it in order.
    let (stop, wake) = (interrupt.clone(), sender.clone());
    sockman_programs::signals::on_signal(move || {
        stop.interrupt();
        let _ = wake.try_send(Input::Signal);
    })
    .map_err(|error| format!("cannot catch signals: {error}"))?;

    let (network, stop) = (config.network, interrupt.clone());
    let page_lines = Arc::new(OnceLock::<SyncSender<Line>>::new());
    let to_page = Arc::clone(&page_lines);
    let node = Node::start(config, chain, move |event| {
        if let Some(page) = to_page.get() {
            if let Some(line) = report::event(&event) {
                let _ = page.try_send(Line::Happened(line));
            }
        }
        // The interrupt comes first, because the receiver of the event checks it.
        if matches!(event, Event::StopRequested) {
            stop.interrupt();
        }
        let _ = sender.try_send(Input::Event(event));
    })?;
    say(format!(
        "node started on network {} at height {}; Ctrl-C stops it",
        network.to_core_arg(),
        node.height()
    ));
    for address in node.listening() {
        say(format!("listening on {address}"));
    }
    let server = start_rpc(&node, rpc)?;
    let web = start_web(&node, rpc, network.to_core_arg())?;
    if let Some(web) = &web {
        let _ = page_lines.set(web.lines());
    }
    let mut screen = Screen::new();
    let is_whole = || {
        node.is_running()
            && server.as_ref().is_none_or(|(server, _)| server.is_running())
            && web.as_ref().is_none_or(Web::is_running)
    };
    screen.follow(&node, &inputs, &interrupt, is_whole);

    say("stopping");
    if !screen.is_terminal {
        say(report::table(&node.peers()));
    }
    // The page and the RPC server stop first, because they use the node.
    drop(web);
    let server = server.map_or(Ok(()), |(server, _cookie_file)| server.stop());
    node.stop()?;
    server?;
    say("stopped");
    Ok(())
}

/// Opens the blocks that the node serves. Returns their headers.
fn open_blocks(config: &mut Config, path: &Path) -> Result<Chain, BlockStoreError> {
    say(format!("checking the blocks in {}", path.display()));
    let blocks = BlockStore::open(path, config.network)?;
    say(format!("the node serves the blocks up to height {} and their filters", blocks.height()));
    if blocks.left_out() > 0 {
        say(format!("{} blocks are left out: they are not in this chain", blocks.left_out()));
    }
    let chain = blocks.chain().clone();
    config.blocks = Some(Arc::new(blocks));
    Ok(chain)
}

/// Starts the RPC server if it has an address. The server has its own `SockMan`, so that peers and
/// the operator cannot delay each other.
fn start_rpc(node: &Node, rpc: &Rpc) -> Result<Option<(AnyServer, CookieFile)>, Box<dyn Error>> {
    if rpc.listen.is_empty() {
        return Ok(None);
    }
    let methods = NodeMethods::new(node.control());
    let service = Arc::new(RpcService { cookie: Cookie::generate()?, methods });
    let (listen, allow) = (rpc.listen.clone(), rpc.allow.clone());
    let config = http::Config { listen, allow, ..http::Config::default() };
    let server = AnyServer::start(config, rpc.tls.as_ref(), service.clone())?;
    let cookie_file = service.cookie.write(&rpc.cookie).map_err(|error| {
        format!("cannot write the RPC cookie to {}: {error}", rpc.cookie.display())
    })?;
    for address in server.listening() {
        let scheme = if rpc.tls.is_some() { "https://" } else { "" };
        say(format!(
            "the RPC server listens on {scheme}{address}; its cookie is in {}",
            rpc.cookie.display()
        ));
    }
    Ok(Some((server, cookie_file)))
}

fn start_web(node: &Node, rpc: &Rpc, network: &'static str) -> Result<Option<Web>, Box<dyn Error>> {
    if rpc.web.is_empty() {
        return Ok(None);
    }
    let web = Web::start(rpc.web.clone(), rpc.tls.as_ref(), network, node.control())?;
    for address in web.listening() {
        let is_ip = address.to_socket_addr().is_some();
        let scheme = if is_ip { format!("{}://", web.scheme()) } else { String::new() };
        say(format!("the peers are shown on {scheme}{address}/"));
    }
    Ok(Some(web))
}

struct Screen {
    is_terminal: bool,
    refresh: Duration,
    last_events: VecDeque<String>,
    peer_lines: Allowance,
    /// Lines were left out since the last one that the allowance permitted.
    lines_left_out: bool,
}

impl Screen {
    fn new() -> Screen {
        let is_terminal = io::stdout().is_terminal();
        let refresh = if is_terminal { REFRESH_ON_TERMINAL } else { REFRESH_IN_LOG };
        Screen {
            is_terminal,
            refresh,
            last_events: VecDeque::new(),
            peer_lines: Allowance::new(MAX_PEER_LINES, PEER_LINES_PERIOD),
            lines_left_out: false,
        }
    }

    /// Prints the events until the interrupt is set or a socket thread ends by itself. The latter
    /// is due to a panic, which `stop` reports.
    fn follow(
        &mut self,
        node: &Node,
        inputs: &Receiver<Input>,
        interrupt: &Interrupt,
        is_whole: impl Fn() -> bool,
    ) {
        let mut next_table = Instant::now() + self.refresh;
        while !interrupt.is_interrupted() && is_whole() {
            let wait = next_table.saturating_duration_since(Instant::now()).min(LOOK_AROUND);
            match inputs.recv_timeout(wait) {
                Ok(Input::Event(event)) => self.show_event(&event),
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Input::Signal) | Err(RecvTimeoutError::Disconnected) => return,
            }
            // Checked after every event, because events may arrive without a pause.
            if Instant::now() >= next_table {
                next_table = Instant::now() + self.refresh;
                self.show_table(node);
            }
        }
    }

    fn show_event(&mut self, event: &Event) {
        let Some(line) = report::event(event) else { return };
        if !self.is_terminal {
            self.log(report::cause(event), &line);
            return;
        }
        self.last_events.push_back(line);
        if self.last_events.len() > LAST_EVENTS {
            self.last_events.pop_front();
        }
    }

    /// Writes a line to the log, unless peers could fill the log with such lines.
    fn log(&mut self, cause: Cause, line: &str) {
        let is_shown = match cause {
            Cause::Operator => true,
            Cause::Anybody => false,
            Cause::Peer => {
                let is_left = self.peer_lines.take(Instant::now());
                let is_first_left_out = !is_left && !self.lines_left_out;
                self.lines_left_out = !is_left;
                if is_first_left_out {
                    say("further lines about peers are left out; RUST_LOG=node=debug shows them");
                }
                is_left
            }
        };
        if is_shown {
            say(line);
        } else {
            log::debug!("{line}");
        }
    }

    fn show_table(&self, node: &Node) {
        let peers = node.peers();
        let state = format!("height {}, tip {}, {} peers", node.height(), node.tip(), peers.len());
        if self.is_terminal {
            let listening: Vec<String> = node
                .listening()
                .iter()
                .map(|address| format!("listening on {address}\n"))
                .collect();
            say(format!("{CLEAR}{}{state}\n\n{}\n", listening.concat(), report::table(&peers)));
            for line in &self.last_events {
                say(line);
            }
        } else {
            say(format!("{state}\n{}", report::table(&peers)));
        }
    }
}
