//! The one connection of a task, from its first look to its last act. How a product makes one, and what it is worth, is the product's own.
//!
//! A server pays more for a connection than for what a task then asks of it, PostgreSQL milliseconds: it starts a process and fills its caches.

use crate::statement::{Found, Statement};

/// Where the SQL of a task goes.
pub trait Connect: Clone {
    type Client;

    /// `None` only if what would be connected to is certainly not there yet. In check mode an earlier task may be about to make it.
    fn open(&self) -> anyhow::Result<Option<Self::Client>>;

    /// For an act, which needs it to be there: the error says what makes it.
    fn require(&self) -> anyhow::Result<Self::Client>;

    fn run(statement: &Statement, client: &mut Self::Client) -> anyhow::Result<()>;
}

/// The connection of a task, made when it is first needed.
pub struct Session<T: Connect> {
    target: Option<T>,
    client: Option<T::Client>,
}

impl<T: Connect> Default for Session<T> {
    fn default() -> Self {
        Self {
            target: None,
            client: None,
        }
    }
}

impl<T: Connect> Session<T> {
    /// To look with. `None` as [`Connect::open`] has it.
    pub fn open(&mut self, target: &T) -> anyhow::Result<Option<&mut T::Client>> {
        if self.client.is_none() {
            self.client = target.open()?;
            self.target = Some(target.clone());
        }
        Ok(self.client.as_mut())
    }

    /// What `look` finds, or that there is no server.
    pub fn observe<V>(
        &mut self,
        target: &T,
        look: impl FnOnce(&mut T::Client) -> anyhow::Result<Found<V>>,
    ) -> anyhow::Result<Found<V>> {
        match self.open(target)? {
            Some(client) => look(client),
            None => Ok(Found::NoServer),
        }
    }

    /// Runs a statement where the task looked before.
    pub fn run(&mut self, statement: &Statement) -> anyhow::Result<()> {
        let client = match &mut self.client {
            Some(client) => client,
            none => {
                let target = self.target.as_ref().expect("a task looks before it acts");
                none.insert(target.require()?)
            }
        };
        T::run(statement, client)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    /// Writes down what is done with it. The server is there from the `from`th time on.
    #[derive(Clone)]
    struct Told {
        from: usize,
        log: Rc<RefCell<Vec<String>>>,
    }

    impl Told {
        fn new(from: usize) -> Self {
            let log = Rc::default();
            Self { from, log }
        }

        fn connected(&self) -> usize {
            let log = self.log.borrow();
            log.iter().filter(|it| *it == "connect").count()
        }
    }

    impl Connect for Told {
        type Client = Rc<RefCell<Vec<String>>>;

        fn open(&self) -> anyhow::Result<Option<Self::Client>> {
            self.log.borrow_mut().push("connect".to_owned());
            Ok((self.connected() >= self.from).then(|| self.log.clone()))
        }

        fn require(&self) -> anyhow::Result<Self::Client> {
            let opened = self.open()?;
            opened.ok_or_else(|| anyhow::anyhow!("nothing is there"))
        }

        fn run(statement: &Statement, log: &mut Self::Client) -> anyhow::Result<()> {
            log.borrow_mut().push(statement.sql.clone());
            Ok(())
        }
    }

    fn look(log: &mut Rc<RefCell<Vec<String>>>) -> anyhow::Result<Found<usize>> {
        log.borrow_mut().push("look".to_owned());
        Ok(Found::Present(log.borrow().len()))
    }

    #[test]
    fn a_task_connects_once() {
        let told = Told::new(1);
        let mut session = Session::default();
        for (says, found) in [("one", 2), ("two", 4)] {
            let seen = session.observe(&told, look).expect("there");
            assert_eq!(seen, Found::Present(found));
            session.run(&Statement::new(says, says)).expect("done");
        }
        assert_eq!(
            *told.log.borrow(),
            ["connect", "look", "one", "look", "two"]
        );
    }

    #[test]
    fn what_is_not_there_yet_is_connected_to_when_it_is_needed() {
        let told = Told::new(2);
        let mut session = Session::default();
        let seen = session.observe(&told, look).expect("certain");
        assert_eq!(seen, Found::NoServer);
        session.run(&Statement::new("one", "one")).expect("made");
        session.observe(&told, look).expect("there");
        assert_eq!(*told.log.borrow(), ["connect", "connect", "one", "look"]);

        let told = Told::new(9);
        let mut session = Session::default();
        session.observe(&told, look).expect("certain");
        let error = session.run(&Statement::new("one", "one"));
        assert_eq!(error.expect_err("missing").to_string(), "nothing is there");
    }
}
