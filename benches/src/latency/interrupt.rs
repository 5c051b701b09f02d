//! Measures the time from the interrupt until the I/O thread and every connect have ended.

use std::{
    error::Error,
    io,
    time::{Duration, Instant},
};

use crate::cores::{self, Cores};

use super::{
    Plan,
    black_hole::BlackHole,
    load::{self, Load, Pauses},
    rounds::{self, Contestant, Slice},
    server::{CONNECT_TIMEOUT, Options, POLL_TIMEOUT, Peer, Server},
};
use crate::report::Report;

/// The threads run at least this long before an interrupt, so that they sleep by then.
const SHORTEST_RUN: Duration = Duration::from_millis(1);
const CONNECTS: usize = 8;
/// After this many connections the client makes an exchange, so that the server has accepted them:
/// a backlog that overflows costs a second. The standard library asks for a backlog of 128.
const SERVED: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Setting {
    Idle { connections: usize },
    Connects,
    EchoLoad,
}

impl Setting {
    fn scenario(self) -> String {
        match self {
            Setting::Idle { connections } => {
                format!("interrupt → join/{connections} idle connections")
            }
            Setting::Connects => format!("interrupt → join/{CONNECTS} connects under way"),
            Setting::EchoLoad => "interrupt → join/echo load".to_owned(),
        }
    }
}

pub fn run(
    plan: &Plan,
    cores: Cores,
    only: &dyn Fn(&str) -> bool,
    report: &mut Report,
) -> Result<(), Box<dyn Error>> {
    let idle = Setting::Idle { connections: plan.idle_connections };
    let settings = [idle, Setting::Connects, Setting::EchoLoad];
    for setting in settings.into_iter().filter(|setting| only(&setting.scenario())) {
        let mut contestants = Vec::new();
        for peer in Peer::ALL {
            if cannot_interrupt_connects(peer, setting) && !plan.waits_for_time_outs {
                report.not_measured.push(format!(
                    "{}, {}: its connects cannot be interrupted and end after their timeout of \
                     {} s; only a full run waits for that.",
                    setting.scenario(),
                    peer.name(),
                    CONNECT_TIMEOUT.as_secs()
                ));
                continue;
            }
            let time = plan.interrupt;
            contestants.push(Contestant {
                peer: peer.name(),
                what: setting.scenario(),
                slice: Box::new(move || {
                    let latencies = cores::on_a_thread(|| slice(peer, setting, cores, time))?;
                    Ok(vec![Slice::new(setting.scenario(), latencies)])
                }),
            });
        }
        rounds::run(plan.rounds, contestants, only, report)?;
    }
    Ok(())
}

fn cannot_interrupt_connects(peer: Peer, setting: Setting) -> bool {
    peer == Peer::PollLoop && setting == Setting::Connects
}

fn slice(peer: Peer, setting: Setting, cores: Cores, time: Duration) -> io::Result<Vec<Duration>> {
    let black_hole = BlackHole::new()?;
    cores::pin(cores.server)?;
    let mut server = peer.server(Options::ECHO)?;
    server.start()?;
    cores::pin(cores.load)?;
    let mut idle = Vec::new();
    if let Setting::Idle { connections } = setting {
        for number in 1..=connections {
            let stream = load::connect(server.address())?;
            if number % SERVED == 0 || number == connections {
                load::exchange(&stream, &mut [1])?;
            }
            idle.push(stream);
        }
    }
    let load = (setting == Setting::EchoLoad)
        .then(|| Load::start(server.address(), cores.load))
        .transpose()?;

    let mut latencies = Vec::new();
    // The pauses vary by the length of the poll loop's wait, so that interrupts come at every point
    // of that wait.
    let mut pauses = Pauses::new(SHORTEST_RUN..SHORTEST_RUN + POLL_TIMEOUT);
    let begin = Instant::now();
    loop {
        if setting == Setting::Connects {
            server.start_connects(black_hole.address()?, CONNECTS)?;
        }
        pauses.sleep();
        let interrupted = Instant::now();
        server.stop()?;
        latencies.push(interrupted.elapsed());
        restart(&mut *server, cores)?;
        if begin.elapsed() >= time {
            break;
        }
    }
    // The load ends before the server stops, because it waits for its replies.
    load.map_or(Ok(()), Load::end)?;
    server.stop()?;
    Ok(latencies)
}

fn restart(server: &mut dyn Server, cores: Cores) -> io::Result<()> {
    cores::pin(cores.server)?;
    server.start()?;
    cores::pin(cores.load)
}
