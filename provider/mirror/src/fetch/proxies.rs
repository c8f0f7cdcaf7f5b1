//! Which proxy a request goes by: apt's, or else the environment's.

use std::collections::BTreeMap;

/// Proxies of the machine's apt. Where apt names none, the environment's `http_proxy`, `https_proxy` and `no_proxy` count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    pub http: Option<String>,
    pub https: Option<String>,
    /// By host; `None` is a direct connection.
    pub hosts: BTreeMap<String, Option<String>>,
}

impl Proxies {
    /// From what `apt-config dump` prints: `Acquire::http::Proxy`, `Acquire::https::Proxy` and their per-host forms (apt-transport-http(1)).
    pub fn from_apt_config(dump: &str) -> Self {
        let mut proxies = Self::default();
        for line in dump.lines() {
            let Some((key, value)) = line
                .trim()
                .strip_suffix(';')
                .and_then(|line| line.split_once(' '))
            else {
                continue;
            };
            let value = value.trim_matches('"');
            let key: Vec<&str> = key.split("::").collect();
            let is = |index: usize, word: &str| {
                key.get(index)
                    .is_some_and(|part: &&str| part.eq_ignore_ascii_case(word))
            };
            if value.is_empty() || !is(0, "Acquire") || !is(2, "Proxy") {
                continue;
            }
            let direct = value.eq_ignore_ascii_case("DIRECT") || value == "false";
            let proxy = (!direct).then(|| value.to_owned());
            match key.get(3) {
                Some(host) => {
                    proxies.hosts.insert((*host).to_owned(), proxy);
                }
                None if is(1, "http") => proxies.http = proxy,
                None if is(1, "https") => proxies.https = proxy,
                None => {}
            }
        }
        proxies
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Fills in what apt leaves open.
    pub(super) fn with_environment(mut self) -> Self {
        let variable = |names: [&str; 2]| {
            names
                .into_iter()
                .find_map(|name| std::env::var(name).ok())
                .filter(|value| !value.is_empty())
        };
        if self.http.is_none() {
            self.http = variable(["http_proxy", "HTTP_PROXY"]);
        }
        if self.https.is_none() {
            self.https = variable(["https_proxy", "HTTPS_PROXY"]);
        }
        self
    }

    pub(super) fn of(&self, scheme: &str, host: &str) -> Option<&str> {
        if let Some(proxy) = self.hosts.get(host) {
            return proxy.as_deref();
        }
        match scheme {
            "http" => self.http.as_deref(),
            "https" => self.https.as_deref(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_as_apt_configures_them() {
        let dump = "\
Acquire \"\";
Acquire::http \"\";
Acquire::http::Proxy \"http://cache.example:3142\";
Acquire::http::Proxy::direct.example \"DIRECT\";
acquire::https::proxy \"false\";
Acquire::https::Proxy::far.example \"http://other.example:1\";
Acquire::http::Pipeline-Depth \"0\";
APT::Proxy \"http://no\";
";
        let proxies = Proxies::from_apt_config(dump);
        let of = |scheme: &str, host: &str| proxies.of(scheme, host).map(str::to_owned);
        assert_eq!(
            of("http", "a.example"),
            Some("http://cache.example:3142".into())
        );
        assert_eq!(of("http", "direct.example"), None);
        assert_eq!(of("https", "a.example"), None);
        assert_eq!(
            of("https", "far.example"),
            Some("http://other.example:1".into())
        );
    }
}
