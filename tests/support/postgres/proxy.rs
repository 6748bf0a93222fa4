//! A way to the server that fails at a chosen moment.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// What happens to the next commit that goes through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Fault {
    /// Nothing.
    None,
    /// The connection ends before the server hears of the commit.
    LoseRequest,
    /// The server commits, and the connection ends before anybody hears of it.
    LoseAnswer,
    /// The instance stops for ever while it holds the lock, with its connection open.
    Freeze,
}

#[derive(Clone)]
pub struct Proxy {
    pub port: u16,
    fault: Arc<AtomicU8>,
    fired: Arc<AtomicUsize>,
    round_trips: Arc<Mutex<Vec<usize>>>,
}

impl Proxy {
    pub async fn to(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let proxy = Self {
            port: listener.local_addr().unwrap().port(),
            fault: Arc::default(),
            fired: Arc::default(),
            round_trips: Arc::default(),
        };
        let serving = proxy.clone();
        drop(tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                drop(tokio::spawn(serving.clone().serve(client, server)));
            }
        }));
        proxy
    }

    pub fn set(&self, fault: Fault) {
        self.fault.store(fault as u8, Ordering::SeqCst);
    }

    /// How often a fault has happened.
    pub fn fired(&self) -> usize {
        self.fired.load(Ordering::SeqCst)
    }

    /// How often the server was waited for in each transaction that has been ended with a commit
    /// since the last call. Of transactions whose statements fit in one packet.
    pub fn take_round_trips(&self) -> Vec<usize> {
        std::mem::take(&mut *self.round_trips.lock().unwrap())
    }

    /// True once, if this is the fault that is set.
    fn happens(&self, fault: Fault) -> bool {
        let (set, none) = (fault as u8, Fault::None as u8);
        let swapped = self
            .fault
            .compare_exchange(set, none, Ordering::SeqCst, Ordering::SeqCst);
        if swapped.is_ok() {
            self.fired.fetch_add(1, Ordering::SeqCst);
        }
        swapped.is_ok()
    }

    async fn serve(self, client: TcpStream, server: u16) {
        let server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let (there, answered) = (self.clone(), AtomicBool::new(false));
        tokio::select! {
            () = there.requests(from_client, to_server, &answered) => {}
            () = self.answers(from_server, to_client, &answered) => {}
        }
    }

    async fn requests(
        self,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        answered: &AtomicBool,
    ) {
        let mut bytes = vec![0; 1 << 16];
        let mut round_trips = 0;
        while let Ok(length @ 1..) = from.read(&mut bytes).await {
            let bytes = &bytes[..length];
            let commits = has(bytes, b"COMMIT\0");
            round_trips += usize::from(answered.swap(false, Ordering::SeqCst));
            if has(bytes, b"BEGIN") {
                round_trips = 1;
            }
            if commits {
                self.round_trips.lock().unwrap().push(round_trips);
            }
            if commits && self.happens(Fault::LoseRequest) {
                return;
            }
            if commits && self.happens(Fault::Freeze) {
                std::future::pending::<()>().await;
            }
            if to.write_all(bytes).await.is_err() {
                return;
            }
        }
    }

    async fn answers(self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf, answered: &AtomicBool) {
        let mut bytes = vec![0; 1 << 16];
        while let Ok(length @ 1..) = from.read(&mut bytes).await {
            let bytes = &bytes[..length];
            answered.store(true, Ordering::SeqCst);
            if has(bytes, b"COMMIT\0") && self.happens(Fault::LoseAnswer) {
                return;
            }
            if to.write_all(bytes).await.is_err() {
                return;
            }
        }
    }
}

fn has(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}
