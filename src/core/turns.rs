//! One at a time, in the order in which they came.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_channel::oneshot;

/// A lock for async code that looks at no clock: whoever came first is next, so that a run can be
/// repeated exactly.
#[derive(Clone, Default)]
pub(crate) struct Turns(Arc<Mutex<Line>>);

#[derive(Default)]
struct Line {
    is_taken: bool,
    waiting: VecDeque<oneshot::Sender<Turn>>,
}

/// Whoever has it is the only one, until it is dropped.
pub(crate) struct Turn(Option<Turns>);

impl Turns {
    fn line(&self) -> MutexGuard<'_, Line> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for its turn.
    pub(crate) async fn take(&self) -> Turn {
        loop {
            let called = {
                let mut line = self.line();
                if !line.is_taken {
                    line.is_taken = true;
                    return Turn(Some(self.clone()));
                }
                let (call, called) = oneshot::channel();
                line.waiting.push_back(call);
                called
            };
            // Nobody drops a caller's place in the line; were it so, it would come again.
            if let Ok(turn) = called.await {
                return turn;
            }
        }
    }

    /// Waits for its turn; `None` where as many wait already.
    pub(crate) async fn take_unless_behind(&self, most: usize) -> Option<Turn> {
        if self.line().waiting.len() >= most {
            return None;
        }
        Some(self.take().await)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(turns) = self.0.take() else { return };
        loop {
            let mut line = turns.line();
            let Some(next) = line.waiting.pop_front() else {
                line.is_taken = false;
                return;
            };
            drop(line);
            match next.send(Turn(Some(turns.clone()))) {
                Ok(()) => return,
                // It went away while it waited: the one after it is next.
                Err(mut turn) => turn.0 = None,
            }
        }
    }
}

/// Turns of their own for each name; a name that nobody has or waits for takes no room.
#[derive(Clone, Default)]
pub(crate) struct NamedTurns(Arc<Mutex<HashMap<String, Named>>>);

#[derive(Default)]
struct Named {
    turns: Turns,
    /// How many have the turn or wait for it.
    here: usize,
}

/// Whoever has it is the only one of this name, until it is dropped.
pub(crate) struct NamedTurn {
    lines: NamedTurns,
    name: String,
    turn: Option<Turn>,
}

impl NamedTurns {
    /// Waits for the turn of this name.
    pub(crate) async fn take(&self, name: &str) -> NamedTurn {
        let turns = {
            let mut lines = self.lock();
            let named = lines.entry(name.to_owned()).or_default();
            named.here += 1;
            named.turns.clone()
        };
        // Counted, and so to be given back although the caller goes away while it waits.
        let mut place = NamedTurn {
            lines: self.clone(),
            name: name.to_owned(),
            turn: None,
        };
        place.turn = Some(turns.take().await);
        place
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Named>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for NamedTurn {
    fn drop(&mut self) {
        drop(self.turn.take());
        let mut lines = self.lines.lock();
        if let Some(named) = lines.get_mut(&self.name) {
            named.here -= 1;
            if named.here == 0 {
                lines.remove(&self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn they_come_in_order_and_who_goes_away_is_passed_over() {
        let turns = Turns::default();
        let Poll::Ready(first) = poll(pin!(turns.take())) else {
            panic!("nobody was before");
        };
        let mut second = Box::pin(turns.take());
        let mut third = Box::pin(turns.take());
        let mut fourth = Box::pin(turns.take());
        for waiting in [&mut second, &mut third, &mut fourth] {
            assert!(poll(waiting.as_mut()).is_pending());
        }
        drop(second);
        drop(first);
        // Nobody steals the turn of whoever waits.
        let mut late = Box::pin(turns.take());
        assert!(poll(late.as_mut()).is_pending());
        assert!(poll(fourth.as_mut()).is_pending());
        // Called, and gone before it came.
        drop(third);
        let Poll::Ready(turn) = poll(fourth.as_mut()) else {
            panic!("it was its turn");
        };
        drop(turn);
        assert!(poll(late.as_mut()).is_ready());
    }

    #[test]
    fn nobody_waits_where_too_many_do() {
        let turns = Turns::default();
        let taken = poll(pin!(turns.take_unless_behind(1)));
        assert!(matches!(taken, Poll::Ready(Some(_))));
        let mut waits = Box::pin(turns.take_unless_behind(1));
        assert!(poll(waits.as_mut()).is_pending());
        let refused = poll(pin!(turns.take_unless_behind(1)));
        assert!(matches!(refused, Poll::Ready(None)));
        drop(taken);
        assert!(matches!(poll(waits.as_mut()), Poll::Ready(Some(_))));
    }

    #[test]
    fn each_name_has_its_own_turn_and_leaves_nothing() {
        let names = NamedTurns::default();
        let Poll::Ready(first) = poll(pin!(names.take("a"))) else {
            panic!("nobody was before");
        };
        assert!(poll(pin!(names.take("b"))).is_ready());
        let mut second = Box::pin(names.take("a"));
        let mut third = Box::pin(names.take("a"));
        assert!(poll(second.as_mut()).is_pending());
        assert!(poll(third.as_mut()).is_pending());
        drop(second);
        drop(first);
        let Poll::Ready(turn) = poll(third.as_mut()) else {
            panic!("it was its turn");
        };
        assert_eq!(names.lock().len(), 1);
        drop(turn);
        assert!(names.lock().is_empty());
    }
}
