//! Promises about the node's state.

use std::time::Duration;

use futures_timer::Delay;

use super::FreshStore;
use super::probe::{Kept, Probe};
use crate::store::{KeyPath, KeyValueWrite, NodeHolder, StoreError};

pub(super) const LONG: Duration = Duration::from_secs(3_600);
pub(super) const SHORT: Duration = Duration::from_millis(150);
pub(super) const PAUSE: Duration = Duration::from_millis(20);

fn path(primary: &str, secondary: &str, key: &str) -> KeyPath {
    KeyPath {
        primary: primary.into(),
        secondary: secondary.into(),
        key: key.into(),
    }
}

fn put(path: KeyPath, value: &[u8]) -> KeyValueWrite {
    KeyValueWrite::Put {
        path,
        value: value.to_vec(),
    }
}

/// A value is what was last put, of any size and any bytes; a removed one is gone, and removing
/// nothing is no error.
///
/// # Errors
/// The promise is broken.
pub async fn node_values_are_set_and_removed(fresh: &FreshStore) -> Kept {
    let probe = Probe::new(fresh, "node_values_are_set_and_removed");
    let node = probe.node();
    let epoch = probe.read(node.begin_epoch().await)?;
    let at = path("monitors", "", "0000");
    probe.same("before", probe.read(node.read(at.clone()).await)?, None)?;
    for value in [vec![1, 2, 3], vec![], vec![0; 1 << 20]] {
        let written = node.write(epoch, put(at.clone(), &value)).await;
        probe.read(written)?;
        let found = probe.read(node.read(at.clone()).await)?;
        probe.same("the value", found == Some(value), true)?;
    }
    let other = probe.read(node.read(path("monitors", "0000", "")).await)?;
    probe.same("another path", other, None)?;
    for _ in 0..2 {
        let removed = KeyValueWrite::Remove { path: at.clone() };
        probe.read(node.write(epoch, removed).await)?;
        let found = probe.read(node.read(at.clone()).await)?;
        probe.same("after the removal", found, None)?;
    }
    Ok(())
}

/// A list has the keys of exactly one pair of namespaces, in order.
///
/// # Errors
/// The promise is broken.
pub async fn node_values_are_listed_by_namespace(fresh: &FreshStore) -> Kept {
    let probe = Probe::new(fresh, "node_values_are_listed_by_namespace");
    let node = probe.node();
    let epoch = probe.read(node.begin_epoch().await)?;
    for at in [
        path("a", "b", "second"),
        path("a", "b", "first"),
        path("a", "b", "third"),
        path("a", "", "other"),
        path("a", "bb", "other"),
        path("", "", "manager"),
        path("ab", "", "other"),
    ] {
        probe.read(node.write(epoch, put(at, b"value")).await)?;
    }
    let removed = KeyValueWrite::Remove {
        path: path("a", "b", "third"),
    };
    probe.read(node.write(epoch, removed).await)?;
    let listed = probe.read(node.list("a".into(), "b".into()).await)?;
    let expected = vec!["first".to_owned(), "second".to_owned()];
    probe.same("the keys", listed, expected)?;
    let listed = probe.read(node.list(String::new(), String::new()).await)?;
    probe.same("empty namespaces", listed, vec!["manager".to_owned()])?;
    let listed = probe.read(node.list("nobody".into(), String::new()).await)?;
    probe.same("a namespace without keys", listed, vec![])
}

/// Writes apply in the order of the calls, however their futures are polled, and although one
/// is dropped.
///
/// # Errors
/// The promise is broken.
pub async fn node_writes_apply_in_call_order(fresh: &FreshStore) -> Kept {
    let probe = Probe::new(fresh, "node_writes_apply_in_call_order");
    let node = probe.node();
    let epoch = probe.read(node.begin_epoch().await)?;
    let at = path("", "", "manager");
    let writes: Vec<_> = (0_u8..64)
        .map(|value| node.write(epoch, put(at.clone(), &[value])))
        .collect();
    for write in writes.into_iter().rev() {
        probe.read(write.await)?;
    }
    let found = probe.read(node.read(at.clone()).await)?;
    probe.same("the last of 64", found, Some(vec![63]))?;

    drop(node.write(epoch, put(path("", "", "dropped"), b"kept")));
    let removed = KeyValueWrite::Remove { path: at.clone() };
    probe.read(node.write(epoch, removed).await)?;
    let found = probe.read(node.read(path("", "", "dropped")).await)?;
    probe.same("whose future was dropped", found, Some(b"kept".to_vec()))
}

/// A new epoch ends all older ones: what they write is refused and changes nothing.
///
/// # Errors
/// The promise is broken.
pub async fn older_epoch_is_fenced(fresh: &FreshStore) -> Kept {
    let probe = Probe::new(fresh, "older_epoch_is_fenced");
    let node = probe.node();
    let at = path("", "", "manager");
    let unbegun = node.write(0, put(at.clone(), b"unbegun")).await;
    let fenced = StoreError::Fenced {
        given: 0,
        current: 0,
    };
    probe.same("a write before any epoch", unbegun, Err(fenced))?;
    let first = probe.read(node.begin_epoch().await)?;
    probe.read(node.write(first, put(at.clone(), b"first")).await)?;
    let second = probe.read(node.begin_epoch().await)?;
    probe.same("that epochs grow", second > first, true)?;
    for (given, change) in [
        (first, put(at.clone(), b"stale")),
        (first, KeyValueWrite::Remove { path: at.clone() }),
        (second + 1, put(at.clone(), b"unbegun")),
    ] {
        let fenced = StoreError::Fenced {
            given,
            current: second,
        };
        let answer = node.write(given, change).await;
        probe.same("another epoch's write", answer, Err(fenced))?;
    }
    let found = probe.read(node.read(at.clone()).await)?;
    probe.same("the value", found, Some(b"first".to_vec()))?;
    probe.read(node.write(second, put(at.clone(), b"second")).await)?;
    let found = probe.read(node.read(at).await)?;
    probe.same("the new epoch's value", found, Some(b"second".to_vec()))
}

fn without_time<T>(answer: Result<T, StoreError>) -> Result<T, StoreError> {
    answer.map_err(|error| match error {
        StoreError::LeaseHeld { .. } => StoreError::LeaseHeld { remaining_ms: 0 },
        other => other,
    })
}

/// The node is taken over when its holder's lease has run out or was given back, and not before;
/// who held it then is fenced. The holder itself need not wait, and a person never.
///
/// # Errors
/// The promise is broken.
pub async fn lease_is_taken_over_when_it_ends(fresh: &FreshStore) -> Kept {
    let probe = Probe::new(fresh, "lease_is_taken_over_when_it_ends");
    let node = probe.node();
    let at = path("", "", "manager");
    let (ours, theirs) = (NodeHolder(7), NodeHolder(u64::MAX));
    let held = Err(StoreError::LeaseHeld { remaining_ms: 0 });

    let first = probe.read(node.take_lease(ours, LONG).await)?;
    let refused = without_time(node.take_lease(theirs, LONG).await);
    probe.same("while the lease lasts", refused, held.clone())?;
    probe.read(node.write(first, put(at.clone(), b"first")).await)?;
    let again = probe.read(node.take_lease(ours, LONG).await)?;
    probe.same("the holder's next epoch", again > first, true)?;
    let fenced = Err(StoreError::Fenced {
        given: first,
        current: again,
    });
    let renewed = node.renew_lease(first, LONG).await;
    probe.same("a renewal of an older epoch", renewed, fenced.clone())?;
    let released = node.release_lease(first).await;
    probe.same("a release by an older epoch", released, fenced)?;

    probe.read(node.release_lease(again).await)?;
    let second = probe.read(node.take_lease(theirs, SHORT).await)?;
    let fenced = Err(StoreError::Fenced {
        given: again,
        current: second,
    });
    let late = node.write(again, put(at.clone(), b"late")).await;
    probe.same("a write after the take-over", late, fenced)?;
    // Renewed, it lasts.
    probe.read(node.renew_lease(second, LONG).await)?;
    fresh.clock.advance(SHORT);
    Delay::new(SHORT).await;
    let refused = without_time(node.take_lease(ours, LONG).await);
    probe.same("after a renewal", refused, held)?;
    // By the store's clock, which may be another one than the test's.
    probe.read(node.renew_lease(second, SHORT).await)?;
    fresh.clock.advance(SHORT);
    let mut third = node.take_lease(ours, LONG).await;
    for _ in 0..100 {
        if third.is_ok() {
            break;
        }
        Delay::new(PAUSE).await;
        third = node.take_lease(ours, LONG).await;
    }
    let third = probe.read(third)?;
    let fenced = Err(StoreError::Fenced {
        given: second,
        current: third,
    });
    let renewed = node.renew_lease(second, LONG).await;
    probe.same("a renewal after the take-over", renewed, fenced)?;
    let forced = probe.read(node.begin_epoch().await)?;
    probe.same("an epoch by force", forced > third, true)?;
    let next = probe.read(node.take_lease(theirs, LONG).await)?;
    probe.same("a lease after that", next > forced, true)
}
