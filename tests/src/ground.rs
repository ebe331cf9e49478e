//! The ground that one test stands on: its own /24 of loopback addresses, its
//! own temporary folder and its own certificate authority.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use crate::certificates::Authority;

/// Port at which every receiver of a test listens (`[delivery] port`).
pub const MAIL_PORT: u16 = 21025;
/// Port of the daemon's door for listed networks.
pub const DOOR_PORT: u16 = 21026;
/// Port of the daemon's STARTTLS submission door.
pub const SUBMISSION_PORT: u16 = 21587;
/// Port of the daemon's implicit-TLS submission door.
pub const SUBMISSIONS_PORT: u16 = 21465;
/// Port of the daemon's HTTP door.
pub const HTTP_PORT: u16 = 21080;
/// Port of the daemon's HTTPS door.
pub const HTTPS_PORT: u16 = 21443;
/// Port of the daemon's door for management.
pub const API_PORT: u16 = 21843;
/// Port of the name server.
pub const NAMES_PORT: u16 = 21053;
/// Port of the metrics.
pub const METRICS_PORT: u16 = 21090;
/// Port that is held while a test owns a network.
const CLAIM_PORT: u16 = 20999;

/// Name of the daemon under test, as it greets.
pub const HOSTNAME: &str = "out.postkeep.test";

/// What one test owns. Dropping it gives everything back.
#[derive(Debug)]
pub struct Ground {
    network: [u8; 3],
    folder: tempfile::TempDir,
    authority: Authority,
    _claim: TcpListener,
}

impl Ground {
    /// Claims a loopback network that no other running test has.
    ///
    /// # Panics
    /// When no network is free or the temporary folder cannot be made.
    pub fn claim() -> Self {
        let (network, claim) = (0..500)
            .find_map(|_| {
                let network = [127, fastrand::u8(16..=250), fastrand::u8(..)];
                let address = Ipv4Addr::new(network[0], network[1], network[2], 254);
                TcpListener::bind((address, CLAIM_PORT)).ok().map(|claim| (network, claim))
            })
            .expect("no free loopback network in 500 tries: is the loopback interface up with 127.0.0.0/8?");
        let folder = tempfile::Builder::new().prefix("postkeep-test-").tempdir().expect("make a temporary folder");
        // The receivers that change their user must be able to walk through it.
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .expect("open the temporary folder");
        let authority = Authority::new("Postkeep test authority");
        Self { network, folder, authority, _claim: claim }
    }

    /// Address `n` of this network; 1 is the daemon's doors, 11 and up its sources, 53 the names, 100 and up receivers.
    pub fn ip(&self, n: u8) -> Ipv4Addr {
        Ipv4Addr::new(self.network[0], self.network[1], self.network[2], n)
    }

    /// Socket address `n` with `port`.
    pub fn at(&self, n: u8, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.ip(n)), port)
    }

    /// The whole network, `127.a.b.0/24`.
    pub fn network(&self) -> String {
        format!("{}/24", self.ip(0))
    }

    /// The temporary folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A path in the temporary folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The certificate authority of this test.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }
}
