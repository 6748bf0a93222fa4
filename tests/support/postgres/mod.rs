//! A PostgreSQL of the tests' own: a new cluster in a temporary folder, on a free port of this
//! machine, with `fsync` on, and TLS by the certificates beside this file, which are for tests
//! alone (the authority's key was thrown away). It is stopped and removed at the end.

pub mod proxy;
mod replica;
pub mod steps;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tempfile::TempDir;

const CA: &str = include_str!("ca.pem");
const CERTIFICATE: &str = include_str!("server.pem");
const KEY: &str = include_str!("server.key");

/// A running cluster.
pub struct Cluster {
    folder: TempDir,
    programs: PathBuf,
    /// Whom the server runs as: it refuses to run as root.
    user: Option<&'static str>,
    pub port: u16,
}

impl Cluster {
    /// The cluster that tests share which run at the same time. `None`, with a reason printed,
    /// where there is no PostgreSQL; on CI that is a failure.
    pub fn shared() -> Option<Arc<Self>> {
        static SHARED: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cluster) = shared.upgrade() {
            return Some(cluster);
        }
        let cluster = Arc::new(Self::start()?);
        *shared = Arc::downgrade(&cluster);
        Some(cluster)
    }

    /// A cluster of its own, for a test that stops it.
    pub fn start() -> Option<Self> {
        let Some(programs) = programs() else {
            let ci = std::env::var("CI").is_ok_and(|ci| ci == "true" || ci == "1");
            assert!(!ci, "there is no PostgreSQL on this machine");
            println!("skipped: there is no PostgreSQL (initdb) on this machine");
            return None;
        };
        let folder = tempfile::Builder::new().prefix("fkpg").tempdir().unwrap();
        let cluster = Self {
            folder,
            programs,
            user: unprivileged(),
            port: free_port(),
        };
        cluster.make();
        cluster.go_on();
        Some(cluster)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn make(&self) {
        if let Some(user) = self.user {
            own(user, self.folder.path());
        }
        let data = self.data();
        let data = data.to_str().unwrap();
        // Not flushed here: nobody needs an empty cluster to outlive a crash.
        let initdb = ["-D", data, "-U", "flashkit", "-A", "trust", "-E", "UTF8"];
        self.run("initdb", &[&initdb[..], &["--locale=C", "-N"]].concat());
        for (name, text) in [("server.pem", CERTIFICATE), ("server.key", KEY)] {
            let file = self.data().join(name);
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
            if let Some(user) = self.user {
                own(user, &file);
            }
        }
    }

    /// Starts the server, at first or again.
    pub fn go_on(&self) {
        let (data, log) = (self.data(), self.folder.path().join("log"));
        let options = format!(
            "-p {} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=on \
             -c synchronous_commit=on -c max_connections=200 -c shared_buffers=64MB -c ssl=on \
             -c ssl_cert_file=server.pem -c ssl_key_file=server.key",
            self.port
        );
        let (data, log) = (data.to_str().unwrap(), log.to_str().unwrap());
        self.run(
            "pg_ctl",
            &["start", "-w", "-D", data, "-l", log, "-o", &options],
        );
    }

    /// Ends the server at once, as a crash does.
    pub fn crash(&self) {
        let data = self.data();
        let data = data.to_str().unwrap();
        self.run("pg_ctl", &["stop", "-w", "-D", data, "-m", "immediate"]);
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let Output { status, stderr, .. } = self.command(program, arguments).output().unwrap();
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let said = String::from_utf8_lossy(&stderr);
        assert!(status.success(), "{program}: {said}\n{log}");
    }

    /// One of the server's programs, as the server's user.
    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let program = self.programs.join(program);
        let mut command = match self.user {
            Some(user) => {
                let mut command = Command::new("runuser");
                command.args(["-u", user, "--"]).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.args(arguments).current_dir("/");
        command
    }

    /// A connection string, with the port of a proxy or the server's.
    pub fn url(&self, port: u16, options: &str) -> String {
        format!("postgresql://flashkit@localhost:{port}/postgres?hostaddr=127.0.0.1&{options}")
    }

    /// The authority of the server's certificate, as a file.
    pub fn authority(&self) -> PathBuf {
        let file = self.folder().join("ca.pem");
        if !file.exists() {
            fs::write(&file, CA).unwrap();
        }
        file
    }

    /// Where the cluster is: the server's user can read here.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A connection behind the store's back.
    pub async fn raw(&self) -> tokio_postgres::Client {
        let url = self.url(self.port, "sslmode=disable");
        let connected = tokio_postgres::connect(&url, tokio_postgres::NoTls).await;
        let (client, connection) = connected.unwrap();
        drop(tokio::spawn(connection));
        client
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let data = self.data();
        let data = data.to_str().unwrap_or_default();
        // A test that fails has already said why.
        let stop = ["stop", "-w", "-D", data, "-m", "immediate"];
        drop(self.command("pg_ctl", &stop).output());
    }
}

/// The folder of the server's programs: on the path, where Debian keeps them, or where
/// `pg_config` says.
fn programs() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let mut debian: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .collect();
    debian.sort();
    folders.extend(debian.into_iter().rev());
    if let Ok(said) = Command::new("pg_config").arg("--bindir").output() {
        folders.push(PathBuf::from(
            String::from_utf8_lossy(&said.stdout).trim_end(),
        ));
    }
    let complete = |folder: &Path| {
        ["initdb", "pg_ctl", "pg_basebackup"].map(|name| folder.join(name).is_file())
    };
    folders
        .into_iter()
        .find(|folder| complete(folder) == [true; 3])
}

/// Whom root starts the server as.
fn unprivileged() -> Option<&'static str> {
    let id = |arguments: &[&str]| Command::new("id").args(arguments).output().unwrap();
    if String::from_utf8_lossy(&id(&["-u"]).stdout).trim_end() != "0" {
        return None;
    }
    let postgres = id(&["-u", "postgres"]).status.success();
    Some(if postgres { "postgres" } else { "nobody" })
}

fn own(user: &str, path: &Path) {
    let owned = Command::new("chown").arg(user).arg(path).status();
    assert!(owned.unwrap().success());
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}
