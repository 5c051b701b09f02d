//! FIXTURE: an invented report for tests of tables and plots. Nothing here was measured.

use std::collections::BTreeMap;

use crate::report::{BARE_WAKER, Distribution, FIRST_PROGRAM, Figure, Machine, Metric, Report};

const PEERS: [&str; 6] = ["sockman", "epoll C", "mio", "tokio", "message-io", "poll C"];
const ROUNDS: usize = 3;

/// Returns a report with everything that a full run has. Its figures have about the right size.
pub fn report() -> Report {
    let mut report = Report {
        machine: Machine {
            processor: "Fixture processor, made up".to_owned(),
            cores: 2,
            kernel: "0.0.0-fixture".to_owned(),
            rustc: "0.0.0-fixture".to_owned(),
            peers: BTreeMap::from([("tokio".to_owned(), "0.0.0-fixture".to_owned())]),
        },
        mode: "full".to_owned(),
        seconds: 1234.0,
        figures: Vec::new(),
        distributions: Vec::new(),
        shares: Vec::new(),
        failures: 0,
        not_measured: vec!["Fixture: accepts through a proxy were not measured.".to_owned()],
    };
    messages(&mut report);
    bulk(&mut report);
    idle(&mut report);
    latencies(&mut report);
    instruments(&mut report);
    hostile(&mut report);
    report
}

fn messages(report: &mut Report) {
    let base = [("1", 7.8), ("64", 5.1), ("1000", 6.4)];
    for (connections, cpu) in base {
        for (size, more) in [("64 B", 1.0), ("4 KiB", 1.1), ("16 KiB", 1.25)] {
            let scenario = format!("echo/{connections} × {size}");
            each(
                report,
                &scenario,
                Metric::CpuPerMessage,
                cpu * more,
                &[1.0, 1.0, 1.01, 1.05, 1.16, 0.98],
            );
            one(report, &scenario, FIRST_PROGRAM, Metric::CpuPerMessage, cpu * more);
            each(
                report,
                &scenario,
                Metric::Rate,
                150e3 / more,
                &[0.99, 1.0, 0.99, 0.95, 0.87, 1.01],
            );
            let p50 = cpu * 9.0;
            each(report, &scenario, Metric::LatencyP50, p50, &[1.01, 1.0, 1.0, 1.05, 1.1, 0.97]);
            each(
                report,
                &scenario,
                Metric::LatencyP99,
                p50 * 4.0,
                &[1.01, 1.0, 1.05, 1.1, 1.1, 0.97],
            );
            for (peer, factor) in PEERS.iter().zip([1.0, 0.99, 1.0, 1.05, 1.1, 0.96]) {
                spread(report, &scenario, peer, p50 * factor, 4.0);
            }
        }
    }
    let scenario = "pipelined/16 × 64 B × 16 deep";
    each(report, scenario, Metric::CpuPerMessage, 0.33, &[1.0, 1.0, 1.0, 1.0, 1.12, 0.97]);
    for (scenario, peer, cpu) in [
        ("beside listeners/1", "sockman", 5.1),
        ("beside listeners/10000", "sockman", 5.1),
        ("many beside idle/0", "sockman", 5.1),
        ("many beside idle/100000", "sockman", 5.1),
        ("chat/2000 members, 50 lines per second", "sockman", 1.0),
        ("chat/2000 members, 50 lines per second", "tokio", 2.5),
    ] {
        one(report, scenario, peer, Metric::CpuPerMessage, cpu);
    }
    for (idle, poll) in [(0, 1.0), (1_000, 3.0), (5_000, 24.0), (10_000, 61.0)] {
        let scenario = format!("beside idle/{idle}");
        each(report, &scenario, Metric::CpuPerMessage, 5.15, &[1.01, 1.0, 1.0, 1.04, 1.15, poll]);
        each(report, &scenario, Metric::Rate, 150e3, &[0.99, 1.0, 1.0, 0.96, 0.87, 1.0 / poll]);
    }
    let two = "two threads/64 × 64 B";
    one(report, two, "sockman, two threads", Metric::Rate, 250e3);
    one(report, two, "sockman", Metric::Rate, 150e3);
}

fn bulk(report: &mut Report) {
    for (scenario, throughput, cpu) in [
        ("upload/64 KiB writes, 4 connections", 9.8, 88.0),
        ("download/256 KiB sends", 10.6, 92.0),
        ("download/64 KiB sends", 6.2, 150.0),
    ] {
        each(report, scenario, Metric::Throughput, throughput, &[0.99, 1.0, 0.98, 0.97, 1.0, 1.0]);
        each(report, scenario, Metric::CpuPerMegabyte, cpu, &[1.0, 1.0, 0.98, 1.0, 1.09, 1.1]);
    }
    let accept = "accept/connect + echo 1 byte + reset";
    each(report, accept, Metric::CpuPerConnection, 19.5, &[1.05, 1.0, 1.13, 1.27, 1.26, 1.16]);
    let connects = "start connects/10000 at once";
    one(report, connects, "sockman", Metric::CpuPerConnect, 11.0);
    one(report, connects, "epoll C", Metric::CpuPerConnect, 10.0);
    each(report, accept, Metric::ConnectionRate, 31e3, &[0.9, 1.0, 0.89, 0.8, 0.8, 0.87]);
}

fn idle(report: &mut Report) {
    for (idle, sweep, poll) in [(0, 0.1, 0.1), (1_000, 0.6, 15.0), (10_000, 1.1, 150.0)] {
        let scenario = format!("idle/{idle}");
        for (peer, cpu, wake_ups, bytes) in [
            ("sockman", sweep, 20.0, 105.0),
            ("sockman-no-sweep", 0.0, 0.0, 105.0),
            ("epoll C", 0.0, 0.0, 40.0),
            ("mio", 0.0, 0.0, 50.0),
            ("tokio", 0.0, 0.0, 47_700.0),
            ("message-io", 2.1, 1.0, 180.0),
            ("poll C", poll, 20.0, 50.0),
        ] {
            one(report, &scenario, peer, Metric::CpuPerSecond, cpu);
            one(report, &scenario, peer, Metric::WakeUps, wake_ups);
            if idle > 0 {
                one(report, &scenario, peer, Metric::BytesPerConnection, bytes);
            }
        }
    }
}

fn latencies(report: &mut Report) {
    for (scenario, ours, tokio, poll) in [
        ("wake/idle loop", 10.0, 12.0, 25_000.0),
        ("wake/busy loop", 14.0, 16.0, 30.0),
        ("queued → on the wire/idle loop", 20.0, 24.0, 25_000.0),
        ("keep-alive/reply from the callback", 24.0, 26.0, 24.0),
        ("keep-alive/reply from a worker", 28.0, 40.0, 50_000.0),
        ("keep-alive/reply from a worker, through the loop", 28.5, 41.0, 50_000.0),
        ("keep-alive/reply from the callback, 16 connections", 90.0, 95.0, 91.0),
        ("keep-alive/reply from a worker, 16 connections", 120.0, 140.0, 50_100.0),
        ("interrupt → join/1000 idle connections", 150.0, 900.0, 26_000.0),
        ("connect cancel/one connect", 60.0, 50.0, 26_000.0),
    ] {
        for (peer, p50) in [("sockman", ours), ("tokio", tokio), ("poll(2) loop", poll)] {
            one(report, scenario, peer, Metric::LatencyP50, p50);
            let worst = if p50 > 20_000.0 { 1.9 } else { 3.0 };
            one(report, scenario, peer, Metric::LatencyP99, p50 * worst);
            spread(report, scenario, peer, p50, worst);
        }
    }
    one(report, "wake/idle loop", BARE_WAKER, Metric::LatencyP50, 10.0);
    one(report, "wake/idle loop", BARE_WAKER, Metric::LatencyP99, 30.0);
    let floor = "keep-alive/two hand-overs between threads, no sockets";
    one(report, floor, "std mpsc", Metric::LatencyP50, 9.0);
}

fn instruments(report: &mut Report) {
    let calls = "instruments/system calls, 64 × 64 B";
    each(report, calls, Metric::SystemCalls, 2.05, &[1.0, 1.0, 1.0, 1.01, 1.9, 1.0]);
    let instructions = "instruments/instructions, 64 × 64 B";
    each(report, instructions, Metric::Instructions, 120.0, &[3.1, 1.0, 1.4, 7.0, 9.5, 4.0]);
    one(report, instructions, FIRST_PROGRAM, Metric::Instructions, 500.0);
}

fn hostile(report: &mut Report) {
    for (attack, milliseconds, megabytes) in
        [("quiet", 0.07, 2.0), ("bulk from 1,000", 3.0, 4.0), ("zero windows", 4.0, 40.0)]
    {
        let scenario = format!("hostile/{attack}");
        for peer in ["sockman", "sockman, echo example", "epoll C", "tokio", "poll C"] {
            one(report, &scenario, peer, Metric::LatencyP50, milliseconds * 100.0);
            let slower = if peer == "tokio" { 10.0 } else { 1.0 };
            one(report, &scenario, peer, Metric::LatencyP99, milliseconds * 1000.0 * slower);
            one(report, &scenario, peer, Metric::LatencyMax, milliseconds * 2000.0);
            one(report, &scenario, peer, Metric::PeakMemory, megabytes);
        }
    }
    for attack in ["bulk from 1,000", "zero windows"] {
        let scenario = format!("hostile elsewhere/{attack}");
        one(report, &scenario, "epoll C", Metric::LatencyP99, 90.0);
        one(report, &scenario, "epoll C", Metric::LatencyMax, 150.0);
    }
}

fn each(report: &mut Report, scenario: &str, metric: Metric, base: f64, factors: &[f64; 6]) {
    for (peer, factor) in PEERS.iter().zip(factors) {
        one(report, scenario, peer, metric, base * factor);
    }
}

/// Adds samples that drift from round to round, alike for all peers, and differ by 1 % in a round.
fn one(report: &mut Report, scenario: &str, peer: &str, metric: Metric, middle: f64) {
    const DRIFT: [f64; ROUNDS] = [1.0, 1.2, 0.95];
    let jitter = |round: usize| ((peer.len() * 7 + round * 5 + scenario.len()) % 5) as f64 * 0.005;
    let samples = (0..ROUNDS).map(|round| middle * DRIFT[round] * (0.99 + jitter(round)));
    report.figures.push(Figure {
        scenario: scenario.to_owned(),
        peer: peer.to_owned(),
        metric,
        samples: samples.collect(),
    });
}

/// Adds a distribution whose 99th percentile is `worst` times its median.
fn spread(report: &mut Report, scenario: &str, peer: &str, p50: f64, worst: f64) {
    let quantiles = (0..=40).map(|i| {
        let nines = f64::from(i) * 0.1; // 1 for 0.9, 2 for 0.99 …
        (1.0 - 10f64.powf(-nines), p50 * worst.powf((nines - 0.3) / 1.7))
    });
    report.distributions.push(Distribution {
        scenario: scenario.to_owned(),
        peer: peer.to_owned(),
        count: 60_000,
        quantiles: quantiles.collect(),
    });
}
