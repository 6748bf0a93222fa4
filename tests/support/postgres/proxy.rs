//! A way to the server that fails at a chosen moment.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

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
    /// The connection ends at once, and a transaction of one round trip that was sent over it comes
    /// to the server when it is [let go](Proxy::let_go).
    Late,
}

#[derive(Clone)]
pub struct Proxy {
    pub port: u16,
    fault: Arc<AtomicU8>,
    fired: Arc<AtomicUsize>,
    round_trips: Arc<Mutex<Vec<usize>>>,
    let_go: Arc<Notify>,
    arrived: Arc<Notify>,
}

impl Proxy {
    pub async fn to(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let proxy = Self {
            port: listener.local_addr().unwrap().port(),
            fault: Arc::default(),
            fired: Arc::default(),
            round_trips: Arc::default(),
            let_go: Arc::default(),
            arrived: Arc::default(),
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

    /// What is late comes to the server now; answers once it has done with it.
    pub async fn let_go(&self) {
        self.let_go.notify_one();
        self.arrived.notified().await;
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
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        let answered = AtomicBool::new(false);
        let late = tokio::select! {
            late = self.requests(&mut from_client, &mut to_server, &answered) => late,
            () = self.answers(&mut from_server, &mut to_client, &answered) => return,
        };
        let Some(late) = late else { return };
        drop((from_client, to_client));
        self.let_go.notified().await;
        to_server.write_all(&late).await.unwrap();
        to_server.shutdown().await.unwrap();
        // The server ends it when it has carried out all that it was sent.
        let mut said = Vec::new();
        from_server.read_to_end(&mut said).await.unwrap();
        self.arrived.notify_one();
    }

    /// Answers what was sent and kept back.
    async fn requests(
        &self,
        from: &mut OwnedReadHalf,
        to: &mut OwnedWriteHalf,
        answered: &AtomicBool,
    ) -> Option<Vec<u8>> {
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
                return None;
            }
            if has(bytes, b"BEGIN") && self.happens(Fault::Late) {
                let mut late = bytes.to_vec();
                while !has(&late, b"COMMIT\0") {
                    assert!(from.read_buf(&mut late).await.unwrap() > 0);
                }
                return Some(late);
            }
            if commits && self.happens(Fault::Freeze) {
                std::future::pending::<()>().await;
            }
            if to.write_all(bytes).await.is_err() {
                return None;
            }
        }
        None
    }

    async fn answers(
        &self,
        from: &mut OwnedReadHalf,
        to: &mut OwnedWriteHalf,
        answered: &AtomicBool,
    ) {
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
