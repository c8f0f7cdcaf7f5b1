//! `join`, which takes any number of words, and `port`, which can refuse its argument.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tfplugin::{Attr, Function, FunctionError, attribute};

pub(crate) struct Join;

/// Joins words, and leaves out those that are null.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct JoinArguments {
    /// What stands between words.
    #[schemars(length(max = 3))]
    separator: String,
    /// The words.
    #[schemars(transform = attribute::variadic)]
    words: Vec<String>,
}

impl Function for Join {
    type Arguments = JoinArguments;
    type Output = String;

    const NAME: &'static str = "join";
    const SUMMARY: &'static str = "Joins words";

    fn call(JoinArguments { separator, words }: JoinArguments) -> Result<String, FunctionError> {
        match words.iter().position(|word| word == "panic") {
            Some(at) => panic!("word {at} said so"),
            None => Ok(words.join(&separator)),
        }
    }
}

pub(crate) struct Port;

/// Takes an address apart.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct PortArguments {
    /// Such as `localhost:80`.
    address: String,
    /// The port where the address has none; null for an error.
    fallback: Attr<u16>,
}

/// An address in parts.
#[derive(Debug, PartialEq, Serialize, JsonSchema)]
pub(crate) struct Address {
    host: String,
    port: u16,
}

impl Function for Port {
    type Arguments = PortArguments;
    type Output = Address;

    const NAME: &'static str = "port";
    const SUMMARY: &'static str = "Takes an address apart";

    fn call(PortArguments { address, fallback }: PortArguments) -> Result<Address, FunctionError> {
        let bad = |text: String| FunctionError::argument("address", text);
        let (host, port) = match address.split_once(':') {
            Some((host, port)) => {
                let port = port
                    .parse()
                    .map_err(|_| bad(format!("{port:?} is no port")))?;
                (host, port)
            }
            None => {
                let port = fallback
                    .into_known()
                    .ok_or_else(|| bad("it has no port".to_owned()))?;
                (address.as_str(), port)
            }
        };
        Ok(Address {
            host: host.to_owned(),
            port,
        })
    }
}
