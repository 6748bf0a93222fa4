//! A second server that follows the first, and takes its place.
#![allow(dead_code, reason = "for the test that loses a server")]

use std::time::Duration;

use super::{Cluster, free_port, own};

impl Cluster {
    /// A server that follows this one, asynchronously at first.
    pub fn standby(&self) -> Self {
        let folder = tempfile::Builder::new().prefix("fkpg").tempdir().unwrap();
        let standby = Self {
            folder,
            programs: self.programs.clone(),
            user: self.user,
            port: free_port(),
        };
        if let Some(user) = self.user {
            own(user, standby.folder.path());
        }
        let (data, port) = (standby.data(), self.port.to_string());
        let data = data.to_str().unwrap();
        let from = ["-h", "127.0.0.1", "-p", &port, "-U", "flashkit", "-D", data];
        let how = ["-R", "-X", "stream", "-c", "fast", "-N"];
        self.run("pg_basebackup", &[&from[..], &how[..]].concat());
        standby.go_on();
        standby
    }

    /// From now on a commit is answered when the standby has it on its disk.
    pub async fn wait_for_standby(&self) {
        let raw = self.raw().await;
        raw.batch_execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            .await
            .unwrap();
        raw.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        let sync = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
        self.until(sync).await;
    }

    /// Waits until the standby has everything.
    pub async fn standby_has_all(&self) {
        let all = "SELECT count(*) FROM pg_stat_replication
                   WHERE replay_lsn >= pg_current_wal_lsn()";
        self.until(all).await;
    }

    async fn until(&self, counted: &str) {
        let raw = self.raw().await;
        for _ in 0..6_000 {
            if raw.query_one(counted, &[]).await.unwrap().get::<_, i64>(0) > 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("waited in vain: {counted}");
    }

    /// A standby becomes the one that is written to.
    pub fn promote(&self) {
        let data = self.data();
        self.run("pg_ctl", &["promote", "-w", "-D", data.to_str().unwrap()]);
    }

    /// Ends the server in good order.
    pub fn stop(&self) {
        let data = self.data();
        let data = data.to_str().unwrap();
        self.run("pg_ctl", &["stop", "-w", "-D", data, "-m", "fast"]);
    }

    /// A connection string for whichever of the two can be written to.
    pub fn url_with(&self, other: &Self) -> String {
        let (ours, theirs) = (self.port, other.port);
        format!(
            "host=localhost,localhost hostaddr=127.0.0.1,127.0.0.1 port={ours},{theirs} \
             user=flashkit dbname=postgres sslmode=disable target_session_attrs=read-write"
        )
    }
}
