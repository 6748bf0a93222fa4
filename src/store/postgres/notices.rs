//! What a server says beside its answers.

use std::future::poll_fn;

use deadpool_postgres::Connect;
use tokio::task::JoinHandle;
use tokio_postgres::error::DbError;
use tokio_postgres::{AsyncMessage, Client, Config, Connection, Error, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::ports::BoxFuture;

/// Makes connections that end where the server gives up its wait for a standby. It answers such a
/// commit as any other (`pg_cancel_backend` does that, or a client that cancels), with a warning
/// before the answer: with the connection gone the outcome is what it is, unknown.
pub(super) struct Connects(pub(super) MakeRustlsConnect);

impl Connect for Connects {
    fn connect(&self, config: &Config) -> BoxFuture<'_, Result<(Client, JoinHandle<()>), Error>> {
        let (tls, config) = (self.0.clone(), config.clone());
        Box::pin(async move {
            let (client, connection) = config.connect(tls).await?;
            Ok((client, tokio::spawn(attend(connection))))
        })
    }
}

type Tls = <MakeRustlsConnect as tokio_postgres::tls::MakeTlsConnect<Socket>>::Stream;

/// Carries a connection on until it ends, or must.
async fn attend(mut connection: Connection<Socket, Tls>) {
    loop {
        match poll_fn(|context| connection.poll_message(context)).await {
            Some(Ok(AsyncMessage::Notice(notice))) if gives_up_a_wait(&notice) => return,
            Some(Ok(_)) => {}
            // Whoever waits for an answer is told of it by the client.
            Some(Err(_)) | None => return,
        }
    }
}

/// Its text is in the server's language, and its code that of any warning: where it comes from is
/// its name.
fn gives_up_a_wait(notice: &DbError) -> bool {
    let file = notice.file().unwrap_or_default();
    file.rsplit(['/', '\\']).next() == Some("syncrep.c")
}
