//! Metrics for Prometheus, as text over HTTP: the parts that coordinator and worker have in common.
//!
//! Each program keeps a [`Registry`] of its own and is asked for its text at every scrape. The page shows no secret and
//! changes nothing, but it is served to whoever reaches the address, without TLS: the default is this machine alone.

mod address;
pub mod exposition;
mod http;
mod process;

pub use address::{Address, AddressError};
pub use http::{Serving, serve};
pub use process::register_process;

pub use prometheus_client::metrics::counter::Counter;
pub use prometheus_client::metrics::family::Family;
pub use prometheus_client::metrics::gauge::Gauge;
pub use prometheus_client::metrics::histogram::Histogram;
pub use prometheus_client::metrics::info::Info;
pub use prometheus_client::registry::{Registry, Unit};

use prometheus_client::encoding::text::encode;

/// A value that is not a whole number, such as a share.
pub type FloatGauge = Gauge<f64, std::sync::atomic::AtomicU64>;

/// The unit of shares from 0 to 1, by Prometheus's convention.
pub fn ratio() -> Unit {
    Unit::Other("ratio".to_owned())
}

/// The registry's text, in the OpenMetrics format.
pub fn text(registry: &Registry) -> String {
    let mut text = String::new();
    // A string takes whatever is written to it.
    let _ = encode(&mut text, registry);
    text
}

/// Buckets of durations from `first` seconds on, each twice as wide as the one before.
pub fn seconds_from(first: f64, count: u16) -> Histogram {
    Histogram::new(prometheus_client::metrics::histogram::exponential_buckets(first, 2.0, count))
}
