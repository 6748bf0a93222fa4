//! A whole engine as a stream, from whoever wrote it: it arrives, and leaves again as it came; or
//! it is refused, and the store is as empty as before.

use std::sync::Arc;

use flashkit::ports::SystemClock;
use flashkit::store::moving::{ReadSource, write_to};
use flashkit::store::{MemoryStore, NodeState, Store, StoreAdmin};
use futures_executor::block_on;
use sha2::{Digest, Sha256};

/// The data is a stream without its last line, which says that nothing was lost or changed on the
/// way: it is made to fit here, since no fuzzer guesses a digest.
pub fn run(data: &[u8]) -> bool {
    let mut stream = data.to_vec();
    if !stream.ends_with(b"\n") {
        stream.push(b'\n');
    }
    let rows = stream.iter().filter(|byte| **byte == b'\n').count() - 1;
    let digest = hex::encode(Sha256::digest(&stream));
    stream.extend(format!("{{\"rows\":{rows},\"sha256\":\"{digest}\"}}\n").into_bytes());

    let Some(written) = moved(&stream) else {
        return false;
    };
    // The order of the rows may be another one now, and is the same from here on.
    let again = moved(&written).expect("what was written arrives");
    assert_eq!(again, written, "{}", String::from_utf8_lossy(&written));
    true
}

/// What a store writes after it has taken this in; `None` where it refuses.
fn moved(stream: &[u8]) -> Option<Vec<u8>> {
    let store = MemoryStore::new(Arc::new(SystemClock));
    let source = Box::new(ReadSource::new(std::io::Cursor::new(stream.to_vec())));
    if block_on(store.import(source, &[])).is_err() {
        assert_eq!(block_on(store.commits(0, 1)), Ok(Vec::new()));
        assert_eq!(block_on(store.balances(None, 1)), Ok(Vec::new()));
        return None;
    }
    let mut written = Vec::new();
    let export = block_on(store.export(NodeState::LeaveOut)).expect("it can leave");
    block_on(write_to(export, &mut written)).expect("it leaves");
    Some(written)
}
