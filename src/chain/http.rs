//! HTTP with reqwest: what an Esplora server and a bitcoind speak.

use std::time::Duration;

use super::ChainError;

/// How long one question may take.
const TIME_LIMIT: Duration = Duration::from_secs(30);
/// The longest answer that is read: a block in hex, with room to spare.
const MAX_BYTES: usize = 16 * 1024 * 1024;

pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn is_ok(&self) -> bool {
        self.status == 200
    }
}

#[derive(Debug, Clone)]
pub(super) struct Http {
    client: reqwest::Client,
}

impl Http {
    pub(super) fn new() -> Result<Self, ChainError> {
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(TIME_LIMIT)
            .user_agent(concat!("flashkit/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self {
            client: client.map_err(|error| unreachable(&error))?,
        })
    }

    pub(super) async fn get(&self, url: &str) -> Result<Answer, ChainError> {
        read(self.client.get(url)).await
    }

    pub(super) async fn post(
        &self,
        url: &str,
        login: Option<(&str, &str)>,
        body: String,
    ) -> Result<Answer, ChainError> {
        let mut request = self.client.post(url).body(body);
        if let Some((user, password)) = login {
            request = request.basic_auth(user, Some(password));
        }
        read(request).await
    }
}

async fn read(request: reqwest::RequestBuilder) -> Result<Answer, ChainError> {
    let mut response = request.send().await.map_err(|error| unreachable(&error))?;
    let status = response.status().as_u16();
    let mut body = Vec::new();
    // The length that a server announces is not believed: what comes is counted.
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|error| unreachable(&error))?
    {
        if body.len().saturating_add(chunk.len()) > MAX_BYTES {
            // It is there, and has more to say than is read.
            let question = "a question whose answer is too long";
            return Err(ChainError::BadAnswer { question });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Answer { status, body })
}

/// Without the address, which may have a password or a token in it.
fn unreachable(error: &reqwest::Error) -> ChainError {
    let reason = if error.is_timeout() {
        "it did not answer in time"
    } else if error.is_connect() {
        "no connection"
    } else if error.is_builder() {
        "the request could not be made"
    } else {
        "the connection broke"
    };
    ChainError::Unreachable {
        reason: reason.to_owned(),
    }
}
