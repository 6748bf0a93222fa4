//! JSON-RPC over HTTP/1.1, as `bitcoind` speaks it, on one connection that is kept alive.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long one call may take.
const CALL_LIMIT: Duration = Duration::from_secs(60);
/// The largest answer that is read, in bytes.
const BODY_LIMIT: usize = 64 * 1024 * 1024;
/// The longest header line that is read, in bytes.
const LINE_LIMIT: u64 = 16 * 1024;

/// Why a call had no result.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    /// The connection could not be made or broke.
    #[error("the connection to {address} failed: {source}")]
    Connection {
        /// Host and port.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// No answer within a minute. Whether the call had its effect is unknown.
    #[error("{method} was not answered in time")]
    TimedOut {
        /// The method that was called.
        method: &'static str,
    },
    /// The answer is no HTTP or no JSON that a JSON-RPC server sends.
    #[error("{method} was answered by HTTP status {status} without a JSON-RPC answer")]
    NotRpc {
        /// The method that was called.
        method: &'static str,
        /// The status, 0 when there was none.
        status: u16,
    },
    /// The server refused the call.
    #[error("{method} failed with code {code}: {reason}")]
    Refused {
        /// The method that was called.
        method: &'static str,
        /// `bitcoind`'s number for the error; -28 means that it is still starting.
        code: i64,
        /// `bitcoind`'s words for it.
        reason: String,
    },
}

/// A client of one server.
pub(super) struct RpcClient {
    address: String,
    authorization: String,
    connection: tokio::sync::Mutex<Option<BufReader<TcpStream>>>,
}

impl RpcClient {
    pub(super) fn new(host: &str, port: u16, user: &str, password: &str) -> Self {
        Self {
            address: format!("{host}:{port}"),
            authorization: base64(format!("{user}:{password}").as_bytes()),
            connection: tokio::sync::Mutex::new(None),
        }
    }

    /// Calls a method and returns its `result`. Calls queue up, one at a time.
    pub(super) async fn call(
        &self,
        method: &'static str,
        params: Value,
    ) -> Result<Value, RpcError> {
        let body = json!({ "jsonrpc": "1.0", "id": 0, "method": method, "params": params });
        let request = self.request(&body.to_string());
        let mut kept = self.connection.lock().await;
        let exchange = async {
            // Taken out, so that a call that fails or is dropped midway leaves no half-read
            // answer for the next one.
            if let Some(mut old) = kept.take() {
                match exchange(&mut old, &request).await {
                    Ok(answer) => return Ok((old, answer)),
                    // The server may have closed an idle connection; nothing of an answer came.
                    Err(Broken {
                        answered: false, ..
                    }) => {}
                    Err(broken) => return Err(broken.source),
                }
            }
            let mut new = BufReader::new(TcpStream::connect(&self.address).await?);
            new.get_ref().set_nodelay(true)?;
            let answer = exchange(&mut new, &request).await;
            answer
                .map(|answer| (new, answer))
                .map_err(|broken| broken.source)
        };
        let (connection, answer) = timeout(CALL_LIMIT, exchange)
            .await
            .map_err(|_| RpcError::TimedOut { method })?
            .map_err(|source| RpcError::Connection {
                address: self.address.clone(),
                source,
            })?;
        if answer.keep_alive {
            *kept = Some(connection);
        }
        read_result(method, answer)
    }

    fn request(&self, body: &str) -> Vec<u8> {
        format!(
            "POST / HTTP/1.1\r\nHost: {}\r\nAuthorization: Basic {}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.address,
            self.authorization,
            body.len(),
        )
        .into_bytes()
    }
}

struct Answer {
    status: u16,
    keep_alive: bool,
    body: Vec<u8>,
}

/// A failed exchange, and whether anything of an answer had come.
struct Broken {
    source: std::io::Error,
    answered: bool,
}

async fn exchange(stream: &mut BufReader<TcpStream>, request: &[u8]) -> Result<Answer, Broken> {
    let early = |source| Broken {
        source,
        answered: false,
    };
    stream.get_mut().write_all(request).await.map_err(early)?;
    let status_line = read_line(stream).await.map_err(early)?;
    read_answer(stream, &status_line)
        .await
        .map_err(|source| Broken {
            source,
            answered: true,
        })
}

async fn read_answer(
    stream: &mut BufReader<TcpStream>,
    status_line: &str,
) -> std::io::Result<Answer> {
    let status = status_line
        .split_ascii_whitespace()
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or(0);
    let mut keep_alive = status_line.starts_with("HTTP/1.1");
    let mut length = None;
    loop {
        let line = read_line(stream).await?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            length = value.parse::<usize>().ok();
        } else if name.eq_ignore_ascii_case("connection") {
            keep_alive = keep_alive && !value.eq_ignore_ascii_case("close");
        }
    }
    let length = length
        .filter(|length| *length <= BODY_LIMIT)
        .ok_or_else(|| std::io::Error::other("no usable Content-Length"))?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(Answer {
        status,
        keep_alive,
        body,
    })
}

/// One line without its end; an end of the stream is an error.
async fn read_line(stream: &mut BufReader<TcpStream>) -> std::io::Result<String> {
    let mut line = String::new();
    stream.take(LINE_LIMIT).read_line(&mut line).await?;
    match line.strip_suffix('\n') {
        Some(line) => Ok(line.trim_end_matches('\r').to_owned()),
        None => Err(std::io::ErrorKind::UnexpectedEof.into()),
    }
}

/// `bitcoind` sends errors of methods with status 500 or 404, and the JSON tells which.
fn read_result(method: &'static str, answer: Answer) -> Result<Value, RpcError> {
    let not_rpc = RpcError::NotRpc {
        method,
        status: answer.status,
    };
    let Ok(Value::Object(mut fields)) = serde_json::from_slice(&answer.body) else {
        return Err(not_rpc);
    };
    match fields.get("error") {
        None | Some(Value::Null) => fields.remove("result").ok_or(not_rpc),
        Some(error) => Err(RpcError::Refused {
            method,
            code: error.get("code").and_then(Value::as_i64).unwrap_or(0),
            reason: error
                .get("message")
                .and_then(Value::as_str)
                .unwrap_or("")
                .to_owned(),
        }),
    }
}

/// Base64 with padding (RFC 4648, section 4), all that HTTP's basic authentication needs.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| chunk.get(index).copied().map_or(0, u32::from);
        let group = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let digit = usize::try_from(group >> (18 - 6 * place) & 63).ok();
            let digit = digit.and_then(|digit| DIGITS.get(digit)).copied();
            let is_padding = usize::try_from(place).is_ok_and(|place| place > chunk.len());
            text.push(digit.filter(|_| !is_padding).map_or('=', char::from));
        }
    }
    text
}
