//! Members of a replicated set, and what one can see of another. Nothing here decides.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use ondol_kit::Invalid;

use crate::connection::{Error, Refusal};

/// What can be seen of a member. One that cannot be asked is [`Seen::Silent`], which is never the same as "not there".
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen<A> {
    Answers(A),
    /// Its host says that nothing listens on the port.
    Refuses,
    /// It answers, and does not let us in. It may take writes.
    Denies(String),
    /// No answer, so nothing is known.
    Silent(String),
}

impl<A> Seen<A> {
    /// What came of asking. `passing` tells a server that starts or stops, which is as good as silent, from one that denies. A server that cannot
    /// be trusted stays an error.
    pub fn of<R: Refusal>(
        asked: Result<A, Error<R>>,
        passing: impl FnOnce(&R) -> bool,
    ) -> Result<Self, Error<R>> {
        match asked {
            Ok(answer) => Ok(Self::Answers(answer)),
            Err(Error::Unreachable { source, .. })
                if source.kind() == io::ErrorKind::ConnectionRefused =>
            {
                Ok(Self::Refuses)
            }
            Err(error @ (Error::Unreachable { .. } | Error::Broken { .. })) => {
                Ok(Self::Silent(error.to_string()))
            }
            Err(error) => match &error {
                Error::Refused { refusal, .. } if passing(refusal) => {
                    Ok(Self::Silent(error.to_string()))
                }
                Error::Refused { .. } => Ok(Self::Denies(error.to_string())),
                _ => Err(error),
            },
        }
    }

    /// The next question to one that answers.
    pub fn and_then<B, E>(self, ask: impl FnOnce(A) -> Result<Seen<B>, E>) -> Result<Seen<B>, E> {
        match self {
            Self::Answers(answer) => ask(answer),
            Self::Refuses => Ok(Seen::Refuses),
            Self::Denies(words) => Ok(Seen::Denies(words)),
            Self::Silent(words) => Ok(Seen::Silent(words)),
        }
    }
}

/// Whether anything listens there. Who it is is not asked.
pub fn knock(address: SocketAddr, patience: Duration) -> Seen<()> {
    match TcpStream::connect_timeout(&address, patience) {
        Ok(_) => Seen::Answers(()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Seen::Refuses,
        Err(error) => Seen::Silent(error.to_string()),
    }
}

/// Asks all at once, for one that is silent takes its time. Answers in the members' order; one error is the whole's.
pub fn ask_all<M: Sync, A: Send>(
    members: &[M],
    ask: impl Fn(&M) -> anyhow::Result<Seen<A>> + Sync,
) -> anyhow::Result<Vec<Seen<A>>> {
    let ask = &ask;
    thread::scope(|scope| {
        let asked: Vec<_> = members
            .iter()
            .map(|member| scope.spawn(move || ask(member)))
            .collect();
        asked
            .into_iter()
            .map(|it| it.join().expect("asking does not panic"))
            .collect()
    })
}

/// Each of `members` is there once, `me` is one of them, and those `fenced` are others of them. Errors name the parameters `members`, `name` and
/// `fenced`.
pub fn check_set<'a>(
    me: &str,
    members: impl IntoIterator<Item = &'a str>,
    fenced: impl IntoIterator<Item = &'a str>,
) -> Result<(), Invalid> {
    let mut names = Vec::new();
    for (index, name) in members.into_iter().enumerate() {
        if names.contains(&name) {
            return Err(Invalid::new(
                format!("members[{index}].name"),
                "is there twice",
            ));
        }
        names.push(name);
    }
    if !names.contains(&me) {
        return Err(Invalid::new(
            "name",
            format!("{me:?} is not among `members`"),
        ));
    }
    for name in fenced {
        if name == me || !names.contains(&name) {
            return Err(Invalid::new(
                format!("fenced.{name}"),
                "is not another member",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fmt;
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;
    use crate::connection::Peer;

    #[derive(Debug)]
    struct Word(&'static str);

    impl fmt::Display for Word {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Refusal for Word {
        type Code<'a> = &'a str;

        fn code(&self) -> &str {
            self.0
        }
    }

    #[test]
    fn silent_is_never_absent_and_who_denies_is_there() {
        let peer = Peer::new("db-2");
        let io = |kind: io::ErrorKind| io::Error::from(kind);
        let silent = |words: &str| Seen::Silent(words.to_owned());
        for (asked, wanted) in [
            (Ok(7), Seen::Answers(7)),
            (
                Err(peer.unreachable(io(io::ErrorKind::ConnectionRefused))),
                Seen::Refuses,
            ),
            (
                Err(peer.unreachable(io(io::ErrorKind::HostUnreachable))),
                silent("no connection to db-2: host unreachable"),
            ),
            // A name without an address says nothing of a server.
            (
                Err(peer.unreachable(io(io::ErrorKind::NotFound))),
                silent("no connection to db-2: entity not found"),
            ),
            (
                Err(peer.broken(io(io::ErrorKind::WouldBlock))),
                silent("the connection to db-2 broke: no answer in time"),
            ),
            (
                Err(peer.refused(Word("starting"))),
                silent("the server at db-2 says: starting"),
            ),
            (
                Err(peer.refused(Word("wrong password"))),
                Seen::Denies("the server at db-2 says: wrong password".to_owned()),
            ),
        ] {
            let seen = Seen::of(asked, |word: &Word| word.0 == "starting");
            assert_eq!(seen.expect("can be counted"), wanted);
        }
        let stranger = Err::<(), _>(peer.untrusted::<Word>("unknown issuer"));
        let error = Seen::of(stranger, |_| true).expect_err("not to be counted as anything");
        assert_eq!(
            error.to_string(),
            "the server at db-2 is not trusted: unknown issuer"
        );
    }

    #[test]
    fn a_port_that_nobody_listens_on_refuses() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("bound");
        let patience = Duration::from_secs(2);
        assert_eq!(knock(address, patience), Seen::Answers(()));
        drop(listener);
        assert_eq!(knock(address, patience), Seen::Refuses);
    }

    #[test]
    fn answers_keep_the_members_order_and_an_error_is_the_wholes() {
        let all = ask_all(&[3, 1, 2], |it| Ok(Seen::Answers(it * 10))).expect("answers");
        assert_eq!(all, [30, 10, 20].map(Seen::Answers));
        let none = ask_all(&[3, 1], |it| match it {
            1 => anyhow::bail!("not trusted"),
            _ => Ok(Seen::<()>::Refuses),
        });
        assert_eq!(none.expect_err("one failed").to_string(), "not trusted");
    }

    #[test]
    fn a_set_that_cannot_be_meant_is_refused() {
        for (me, members, fenced, param) in [
            ("b", vec!["a", "b"], vec!["a"], None),
            ("x", vec!["a", "b"], vec![], Some("name")),
            ("b", vec!["b", "b"], vec![], Some("members[1].name")),
            ("b", vec!["a", "b"], vec!["b"], Some("fenced.b")),
            ("b", vec!["a", "b"], vec!["x"], Some("fenced.x")),
        ] {
            let refused = check_set(me, members, fenced).err().map(|it| it.param);
            assert_eq!(refused.as_deref(), param);
        }
    }
}
