//! The names of metrics, how their values are printed, and whether a lower value is better.

use crate::report::Metric;

impl Metric {
    /// Returns the name of the metric with the unit of [`Metric::shown`].
    pub fn title(self) -> &'static str {
        match self {
            Self::CpuPerMessage => "server CPU for one message, µs",
            Self::Rate => "messages per second, thousands",
            Self::LatencyP50 => "latency, median, µs",
            Self::LatencyP99 => "latency, 99th percentile, µs",
            Self::LatencyMax => "latency, longest, µs",
            Self::Throughput => "throughput, GB/s",
            Self::CpuPerMegabyte => "server CPU for a megabyte, µs",
            Self::CpuPerConnection => "server CPU for one connection, µs",
            Self::ConnectionRate => "connections per second, thousands",
            Self::CpuPerConnect => "client CPU for one connect, µs",
            Self::CpuPerSecond => "server CPU, ms per second",
            Self::WakeUps => "wake-ups of the server's thread per second",
            Self::BytesPerConnection => "memory for one idle connection, bytes",
            Self::PeakMemory => "peak of the server's memory, MB",
            Self::SystemCalls => "system calls for one message",
            Self::Instructions => "instructions in user space for one message",
        }
    }

    /// Returns the name of the metric without a unit.
    pub fn name(self) -> &'static str {
        self.title().rsplit_once(", ").map_or(self.title(), |(name, _)| name)
    }

    pub fn lower_is_better(self) -> bool {
        !matches!(self, Self::Rate | Self::Throughput | Self::ConnectionRate)
    }

    /// Converts a sample into the unit in which it is shown.
    pub fn shown(self, sample: f64) -> f64 {
        match self {
            Self::Rate | Self::ConnectionRate => sample / 1000.0,
            _ => sample,
        }
    }
}

/// Formats a number with three significant digits and separated thousands: `0.031`, `5.13`, `88.2`,
/// `47,700`.
pub fn number(value: f64) -> String {
    let size = value.abs();
    if size < 0.0005 {
        return "0".to_owned();
    }
    // The rounded value decides: 9.999 is "10.0", not "10.00".
    if size < 0.0995 {
        format!("{value:.3}")
    } else if size < 9.995 {
        format!("{value:.2}")
    } else if size < 99.95 {
        format!("{value:.1}")
    } else {
        thousands(value)
    }
}

fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits.as_str()), |d| ("-", d));
    let mut grouped = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{sign}{grouped}")
}
