//! The configuration of a daemon under test: a sound base on a ground, and
//! whatever a test lays over it, as TOML.

use toml::{Table, Value};

use crate::certificates::Flaw;
use crate::ground::{
    DOOR_PORT, Ground, HOSTNAME, MAIL_PORT, METRICS_PORT, NAMES_PORT, SUBMISSION_PORT, SUBMISSIONS_PORT,
};

/// Password of the credential that [`Settings::with_submission`] adds for `user`.
pub const PASSWORD: &str = "correct horse";
/// Its Argon2id hash, made by argon2-cffi.
pub const PASSWORD_HASH: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$ySspg9kRYUZR6AK/SNC9EQ$JNOsjhqJO8jmQYdLbn+xLNf/N5xiai6xdcwqn0xYYZo";

/// A configuration that is being put together.
#[derive(Debug, Clone)]
pub struct Settings {
    table: Table,
}

impl Settings {
    /// A daemon with one door for the loopback network, one source, quick
    /// retries and short waits. Names come from address 53 of the ground, if a
    /// test opens [`crate::Names`] there.
    pub fn new(ground: &Ground) -> Self {
        let folder = ground.folder().display();
        let table = format!(
            r#"
            hostname = "{HOSTNAME}"
            [spool]
            directory = "{folder}/spool"
            segment-size = "4MiB"
            minimum-free = "16MiB"
            [[listener]]
            address = "{door}"
            tls = "none"
            [[network]]
            name = "loopback"
            addresses = ["127.0.0.0/8", "::1/128"]
            sender-domains = ["*"]
            may-choose-streams = ["*"]
            [stream.default]
            retry = ["1s", "1s", "2s"]
            retry-jitter = 0.1
            [source.one]
            ipv4 = "{source}"
            [pool.default]
            sources = {{ one = 1 }}
            [backoff]
            pause = "500ms"
            longest-pause = "2s"
            [delivery]
            port = {MAIL_PORT}
            ipv6 = false
            idle-timeout = "1s"
            connect-timeout = "3s"
            greeting-timeout = "5s"
            mail-timeout = "5s"
            rcpt-timeout = "5s"
            data-timeout = "5s"
            block-timeout = "5s"
            final-timeout = "10s"
            [resolver]
            servers = ["{names}"]
            timeout = "500ms"
            attempts = 1
            [suppression]
            directory = "{folder}/suppression"
            [mta-sts]
            directory = "{folder}/mta-sts"
            [records]
            directory = "{folder}/records"
            [metrics]
            address = "{metrics}"
            [control]
            socket = "{folder}/control.sock"
            "#,
            door = ground.at(1, DOOR_PORT),
            source = ground.ip(11),
            names = ground.at(53, NAMES_PORT),
            metrics = ground.at(1, METRICS_PORT),
        );
        Self { table: table.parse().expect("the base configuration is TOML") }
    }

    /// Lays TOML over what is there: tables are joined, lists of tables grow, the rest is replaced.
    ///
    /// # Panics
    /// When the text is not TOML.
    #[must_use]
    pub fn with(mut self, text: &str) -> Self {
        let over: Table = text.parse().unwrap_or_else(|error| panic!("not TOML: {error}\n{text}"));
        join(&mut self.table, over);
        self
    }

    /// Takes a top-level key out.
    #[must_use]
    pub fn without(mut self, key: &str) -> Self {
        self.table.remove(key);
        self
    }

    /// Replaces a list by another.
    #[must_use]
    pub fn replacing(self, key: &str, text: &str) -> Self {
        self.without(key).with(text)
    }

    /// A fixed next hop.
    #[must_use]
    pub fn with_route(self, domain: &str, hosts: &[&str]) -> Self {
        self.with(&format!("[[route]]\ndomain = {domain:?}\nhosts = {hosts:?}\n"))
    }

    /// Adds submission doors (STARTTLS and implicit TLS, AUTH required) and the
    /// credential `user` with [`PASSWORD`], for senders in `example.test`.
    #[must_use]
    pub fn with_submission(self, ground: &Ground) -> Self {
        let (certificate, key) = (ground.path("door.pem"), ground.path("door.key"));
        ground.authority().identity(HOSTNAME, Flaw::None).write(&certificate, &key);
        std::fs::write(ground.path("authority.pem"), ground.authority().pem()).expect("write the authority");
        let door = |address: std::net::SocketAddr, tls: &str| {
            format!(
                "[[listener]]\naddress = \"{address}\"\ntls = \"{tls}\"\ncertificate = {certificate:?}\nkey = {key:?}\nrequire-auth = true\n"
            )
        };
        self.with(&door(ground.at(1, SUBMISSION_PORT), "starttls"))
            .with(&door(ground.at(1, SUBMISSIONS_PORT), "implicit"))
            .with(&format!(
                "[[credential]]\nname = \"user\"\npassword-hash = \"{PASSWORD_HASH}\"\nsender-domains = [\"example.test\", \"*.example.test\"]\n"
            ))
    }

    /// The file.
    pub fn text(&self) -> String {
        toml::to_string(&self.table).expect("TOML")
    }
}

fn join(base: &mut Table, over: Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(base)), Value::Table(over)) => join(base, over),
            (Some(Value::Array(base)), Value::Array(over)) if base.iter().chain(&over).all(Value::is_table) => {
                base.extend(over);
            }
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}
