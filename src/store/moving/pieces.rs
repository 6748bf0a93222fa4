//! Bytes on their way from whoever makes them to whoever takes them, a few pieces at a time.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use event_listener::Event;

use crate::ports::BoxFuture;
use crate::store::{ByteSource, MoveError};

/// The most pieces that wait.
const MOST: usize = 8;
/// The most bytes in a piece that is read from a file.
const PIECE: usize = 65_536;

#[derive(Default)]
struct Waiting {
    pieces: VecDeque<Result<Vec<u8>, MoveError>>,
    /// Whoever makes them has made the last, or went away.
    no_more: bool,
    /// Whoever takes them went away.
    unwanted: bool,
}

impl Waiting {
    fn check_wanted(&self) -> Result<(), MoveError> {
        if self.unwanted {
            let reason = "nobody reads it any more".to_owned();
            return Err(MoveError::Source { reason });
        }
        Ok(())
    }
}

#[derive(Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    changed: Event,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where pieces are put.
pub(in crate::store) struct Pieces(Arc<Shared>);

/// Where they come out.
struct Taken(Arc<Shared>);

/// A way for pieces.
pub(in crate::store) fn pieces() -> (Pieces, Box<dyn ByteSource>) {
    let shared = Arc::new(Shared::default());
    (Pieces(shared.clone()), Box::new(Taken(shared)))
}

impl Pieces {
    /// Puts the next piece, once there is room for it.
    ///
    /// # Errors
    /// `move.source` when nobody wants it any more.
    pub(in crate::store) async fn put(&self, piece: Vec<u8>) -> Result<(), MoveError> {
        loop {
            let changed = self.0.changed.listen();
            {
                let mut waiting = self.0.lock();
                waiting.check_wanted()?;
                if waiting.pieces.len() < MOST {
                    waiting.pieces.push_back(Ok(piece));
                    drop(waiting);
                    self.0.changed.notify(usize::MAX);
                    return Ok(());
                }
            }
            changed.await;
        }
    }

    /// Waits until whatever was put is taken.
    ///
    /// # Errors
    /// `move.source` when nobody wants it any more.
    pub(in crate::store) async fn all_taken(&self) -> Result<(), MoveError> {
        loop {
            let changed = self.0.changed.listen();
            {
                let waiting = self.0.lock();
                waiting.check_wanted()?;
                if waiting.pieces.is_empty() {
                    return Ok(());
                }
            }
            changed.await;
        }
    }

    /// The last that comes out.
    pub(in crate::store) fn fail(&self, error: MoveError) {
        self.0.lock().pieces.push_back(Err(error));
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        self.0.lock().no_more = true;
        self.0.changed.notify(usize::MAX);
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.lock().unwanted = true;
        self.0.changed.notify(usize::MAX);
    }
}

impl ByteSource for Taken {
    fn next_piece(&mut self) -> BoxFuture<'_, Result<Option<Vec<u8>>, MoveError>> {
        Box::pin(async move {
            loop {
                let changed = self.0.changed.listen();
                {
                    let mut waiting = self.0.lock();
                    if let Some(piece) = waiting.pieces.pop_front() {
                        drop(waiting);
                        self.0.changed.notify(usize::MAX);
                        return piece.map(Some);
                    }
                    if waiting.no_more {
                        return Ok(None);
                    }
                }
                changed.await;
            }
        })
    }
}

/// A stream out of a file, or of whatever else can be read. Reading blocks the thread it is
/// polled on.
pub struct ReadSource<R>(R);

impl<R: Read + Send> ReadSource<R> {
    /// Takes what is to be read, from where it stands to its end.
    pub fn new(read: R) -> Self {
        Self(read)
    }
}

impl<R: Read + Send> ByteSource for ReadSource<R> {
    fn next_piece(&mut self) -> BoxFuture<'_, Result<Option<Vec<u8>>, MoveError>> {
        let mut piece = vec![0; PIECE];
        let read = self.0.read(&mut piece).map_err(failed);
        Box::pin(std::future::ready(read.map(|length| {
            piece.truncate(length);
            (length > 0).then_some(piece)
        })))
    }
}

/// Writes a stream to a file, or to whatever else can be written. Writing blocks the thread it is
/// polled on; flushing the file to the disk is left to the caller.
///
/// # Errors
/// Whatever the stream fails with; `move.source` when it cannot be written.
pub async fn write_to(
    mut source: Box<dyn ByteSource>,
    to: &mut (dyn Write + Send),
) -> Result<(), MoveError> {
    while let Some(piece) = source.next_piece().await? {
        to.write_all(&piece).map_err(failed)?;
    }
    to.flush().map_err(failed)
}

fn failed(error: std::io::Error) -> MoveError {
    MoveError::Source {
        reason: error.to_string(),
    }
}
