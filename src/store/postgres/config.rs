//! How a database is reached.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use tokio_postgres::config::SslMode;

use crate::store::StoreError;

/// How a database is reached, and under which schema the tables are kept.
#[derive(Clone)]
pub struct PostgresConfig {
    connection: String,
    pub(super) schema: String,
    pub(super) connections: usize,
    pub(super) patience: Duration,
    pub(super) stall: Duration,
}

impl PostgresConfig {
    /// From a connection string as `libpq` has it: `postgresql://user@host/database?sslmode=…` or
    /// `host=… user=… dbname=…`. Besides what [`tokio_postgres::Config`] takes:
    ///
    /// - `sslmode=disable`: no TLS. `prefer` (what stands where nothing is said): TLS where the
    ///   server has it. `require`: TLS, from whoever answers. These three do not check who the
    ///   server is, as in `libpq`: they are for one machine or a network that is trusted.
    /// - `sslmode=verify-full`: TLS, with a certificate for the host's name from an authority of
    ///   the web, or of `sslrootcert`. `verify-ca` is the same here, which is stricter than
    ///   `libpq`.
    /// - `sslrootcert=FILE`: the authorities to trust, in PEM. With it `require` checks the
    ///   server as `verify-full` does.
    pub fn new(connection: impl Into<String>) -> Self {
        Self {
            connection: connection.into(),
            schema: "flashkit".to_owned(),
            connections: 8,
            patience: Duration::from_secs(10),
            stall: Duration::from_secs(5),
        }
    }

    /// The schema that the tables are kept in; made if it is missing. At first `flashkit`. One
    /// to 63 of the characters `a-z`, `0-9` and `_`, no digit first.
    #[must_use]
    pub fn schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = schema.into();
        self
    }

    /// The most connections that read at a time, at least 1; at first 8. Two more write.
    #[must_use]
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections.max(1);
        self
    }

    /// For how long a call goes on while the database cannot be reached; at first 10 seconds.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// After how long the database ends the transaction of an instance that stopped in the middle
    /// of it (a paused process, a network that is cut): others wait that long for it, no longer.
    /// At first 5 seconds.
    #[must_use]
    pub fn stall(mut self, stall: Duration) -> Self {
        self.stall = stall;
        self
    }

    /// Says whether the settings can be understood, without connecting.
    ///
    /// # Errors
    /// `store.misconfigured`.
    pub fn check(&self) -> Result<(), StoreError> {
        self.parse().map(drop)
    }

    pub(super) fn parse(&self) -> Result<Target, StoreError> {
        if !is_name(&self.schema) {
            let reason = format!("{:?} cannot be the name of a schema", self.schema);
            return Err(StoreError::Misconfigured { reason });
        }
        let (rest, ours) = split(&self.connection);
        let mut config = tokio_postgres::Config::from_str(&rest).map_err(|error| {
            // The cause names the option, never a value.
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            let reason = format!("the connection string: {}", cause.unwrap_or_default());
            StoreError::Misconfigured { reason }
        })?;
        let mut verified = false;
        for (name, value) in &ours {
            match (name.as_str(), value.as_str()) {
                ("sslrootcert", _) => {}
                (_, "disable") => drop(config.ssl_mode(SslMode::Disable)),
                (_, "prefer") => drop(config.ssl_mode(SslMode::Prefer)),
                (_, "require") => drop(config.ssl_mode(SslMode::Require)),
                (_, "verify-ca" | "verify-full") => {
                    verified = true;
                    config.ssl_mode(SslMode::Require);
                }
                _ => {
                    let reason = format!("there is no sslmode {value}");
                    return Err(StoreError::Misconfigured { reason });
                }
            }
        }
        let root = ours.iter().find(|(name, _)| name == "sslrootcert");
        let root = root.map(|(_, file)| PathBuf::from(file));
        verified |= root.is_some() && config.get_ssl_mode() == SslMode::Require;
        if config.get_application_name().is_none() {
            config.application_name("flashkit");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(self.patience);
        }
        // A host that vanished is noticed, also where nothing is being sent.
        config.keepalives_idle(Duration::from_secs(30));
        config.keepalives_interval(Duration::from_secs(5));
        config.keepalives_retries(3);
        Ok(Target {
            config,
            verified,
            root,
        })
    }
}

impl fmt::Debug for PostgresConfig {
    /// Without the connection string, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresConfig")
            .field("schema", &self.schema)
            .field("connections", &self.connections)
            .field("patience", &self.patience)
            .field("stall", &self.stall)
            .finish_non_exhaustive()
    }
}

/// What a connection string comes to.
pub(super) struct Target {
    pub(super) config: tokio_postgres::Config,
    /// The server must show who it is.
    pub(super) verified: bool,
    pub(super) root: Option<PathBuf>,
}

fn is_name(schema: &str) -> bool {
    let mut bytes = schema.bytes();
    let first = bytes
        .next()
        .is_some_and(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let rest = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    first && schema.len() <= 63 && bytes.all(rest)
}

/// Takes the options out that the driver does not know in full.
fn split(connection: &str) -> (String, Vec<(String, String)>) {
    const OURS: [&str; 2] = ["sslmode", "sslrootcert"];
    let is_ours = |part: &str| {
        let (name, value) = part.split_once('=')?;
        OURS.contains(&name)
            .then(|| (name.to_owned(), value.trim_matches('\'').to_owned()))
    };
    let is_url = ["postgres://", "postgresql://"]
        .iter()
        .any(|scheme| connection.starts_with(scheme));
    let (start, options, separator) = match connection.split_once('?') {
        Some((start, options)) if is_url => (format!("{start}?"), options, '&'),
        _ if is_url => return (connection.to_owned(), Vec::new()),
        _ => (String::new(), connection, ' '),
    };
    let (mut rest, mut ours) = (Vec::new(), Vec::new());
    for part in options.split(separator) {
        match is_ours(part) {
            Some((name, value)) if is_url => ours.push((name, unescape(&value))),
            Some(option) => ours.push(option),
            None => rest.push(part),
        }
    }
    (start + &rest.join(&separator.to_string()), ours)
}

/// `%2F` and the like in an option of a URL; what is no such thing stays as it is.
fn unescape(value: &str) -> String {
    let mut parts = value.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let digits = part.get(..2);
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend_from_slice(part.get(2..).unwrap_or_default().as_bytes());
            }
            None => {
                bytes.push(b'%');
                bytes.extend_from_slice(part.as_bytes());
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(connection: &str) -> (SslMode, bool, Option<PathBuf>, Vec<u8>) {
        let target = PostgresConfig::new(connection).parse().unwrap();
        let password = target.config.get_password().unwrap_or_default().to_vec();
        let mode = target.config.get_ssl_mode();
        (mode, target.verified, target.root, password)
    }

    #[test]
    fn tls_follows_the_connection_string() {
        let root = Some(PathBuf::from("/etc/ca.pem"));
        for (options, mode, verified, file) in [
            ("", SslMode::Prefer, false, None),
            ("sslmode=disable", SslMode::Disable, false, None),
            ("sslmode=require", SslMode::Require, false, None),
            ("sslmode=verify-full", SslMode::Require, true, None),
            ("sslmode=verify-ca", SslMode::Require, true, None),
            (
                "sslrootcert=/etc/ca.pem sslmode=require",
                SslMode::Require,
                true,
                root.clone(),
            ),
            (
                "sslmode=prefer sslrootcert=/etc/ca.pem",
                SslMode::Prefer,
                false,
                root.clone(),
            ),
        ] {
            let expected = (mode, verified, file, b"a b".to_vec());
            let keys = format!("host=h user=u {options} password='a b'");
            assert_eq!(parsed(&keys), expected, "{keys}");
            let options = options.replace(' ', "&").replace("/etc/", "%2Fetc/");
            let url = format!("postgresql://u:a%20b@h/d?{options}");
            let url = url.trim_end_matches('?');
            assert_eq!(parsed(url), expected, "{url}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_without_telling_the_password() {
        for (connection, schema) in [
            ("host=h", "Robert'); DROP TABLE"),
            ("host=h", ""),
            ("host=h", "1st"),
            ("host=h password=secret sslmode=maybe", "flashkit"),
            ("host=h password=secret port=none", "flashkit"),
            ("postgres://u:secret@h:1:2/d", "flashkit"),
        ] {
            let config = PostgresConfig::new(connection).schema(schema);
            assert!(!format!("{config:?}").contains("secret"));
            let error = config.parse().err().unwrap();
            assert_eq!(error.code(), "store.misconfigured", "{connection}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
