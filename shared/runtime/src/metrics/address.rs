//! Where metrics are served: a setting in a word or an address.

use std::str::FromStr;

use tokio::net::TcpListener;

use crate::net::{self, NetError};

/// Where metrics are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// Nowhere: `off`.
    Off,
    /// At the program's usual port of the loopback interface, where that is free: `auto`.
    Auto,
    /// At this address, or the program does not start: `HOST:PORT`.
    At(String),
}

/// A setting that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no place for metrics: write auto, off or HOST:PORT such as 0.0.0.0:7078")]
pub struct AddressError(String);

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        match text.trim() {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            address => {
                let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty());
                match port.map(|(_, port)| port.parse::<u16>()) {
                    Some(Ok(_)) => Ok(Self::At(address.to_owned())),
                    _ => Err(AddressError(text.to_owned())),
                }
            }
        }
    }
}

impl Address {
    /// Binds it; none where metrics are off, or `usual` is taken and no address was asked for.
    ///
    /// # Errors
    /// An address that was asked for and cannot be had.
    pub async fn bind(&self, usual: &str) -> Result<Option<TcpListener>, NetError> {
        let listener = match self {
            Self::Off => return Ok(None),
            Self::At(address) => net::bind(address).await?,
            Self::Auto => match net::bind(usual).await {
                Ok(listener) => listener,
                Err(error) => {
                    tracing::info!(%error, usual, "metrics are not served: another program has their usual port");
                    return Ok(None);
                }
            },
        };
        if let Ok(address) = listener.local_addr() {
            tracing::info!(url = format!("http://{address}/metrics"), "serving metrics");
        }
        Ok(Some(listener))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_addresses_are_told_apart() {
        assert_eq!("auto".parse(), Ok(Address::Auto));
        assert_eq!("off".parse(), Ok(Address::Off));
        assert_eq!("[::1]:0".parse(), Ok(Address::At("[::1]:0".into())));
        for bad in ["", "on", "7078", ":7078", "host:", "host:70780"] {
            assert_eq!(bad.parse::<Address>(), Err(AddressError(bad.into())));
        }
    }

    #[tokio::test]
    async fn only_an_address_that_was_asked_for_must_be_free() {
        let held = Address::At("127.0.0.1:0".into()).bind("").await.unwrap().unwrap();
        let taken = held.local_addr().unwrap().to_string();
        assert!(Address::Auto.bind(&taken).await.unwrap().is_none());
        assert!(Address::At(taken.clone()).bind("").await.is_err());
        assert!(Address::Off.bind(&taken).await.unwrap().is_none());
    }
}
