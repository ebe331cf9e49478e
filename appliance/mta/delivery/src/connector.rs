//! Opening a connection: bind, connect, greeting, EHLO, STARTTLS, EHLO again.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::sockopt::IpBindAddressNoPort;
use postkeep_configuration::{Delivery, OutboundTls, TlsVersion};
use postkeep_dane::Tlsa;
use postkeep_smtp::capabilities::Capabilities;
use postkeep_smtp::client::Stage;
use postkeep_smtp::reply::Reply;
use postkeep_trust::RootsError;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::connection::Connection;
use crate::stream::Stream;
use crate::tls::Tls;
use crate::wire::Wire;

/// How long each side may take (RFC 5321 §4.5.3.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP connect.
    pub connect: Duration,
    /// The greeting, §4.5.3.2.1.
    pub greeting: Duration,
    /// The replies to EHLO, HELO and MAIL, §4.5.3.2.2.
    pub mail: Duration,
    /// The reply to RCPT, §4.5.3.2.3.
    pub rcpt: Duration,
    /// The replies to DATA and STARTTLS, and the TLS handshake, §4.5.3.2.4.
    pub data: Duration,
    /// Until the peer takes the next octets of what is being written, §4.5.3.2.5.
    pub block: Duration,
    /// The reply after the content, §4.5.3.2.6.
    pub last: Duration,
}

impl From<&Delivery> for Timeouts {
    fn from(delivery: &Delivery) -> Self {
        Self {
            connect: delivery.connect_timeout.as_std(),
            greeting: delivery.greeting_timeout.as_std(),
            mail: delivery.mail_timeout.as_std(),
            rcpt: delivery.rcpt_timeout.as_std(),
            data: delivery.data_timeout.as_std(),
            block: delivery.block_timeout.as_std(),
            last: delivery.final_timeout.as_std(),
        }
    }
}

impl Timeouts {
    /// How long to wait for the reply at this stage.
    pub(crate) fn at(&self, stage: Stage) -> Duration {
        match stage {
            Stage::Bind | Stage::Connect => self.connect,
            Stage::Greeting => self.greeting,
            Stage::Ehlo | Stage::Mail => self.mail,
            Stage::Rcpt => self.rcpt,
            Stage::Tls | Stage::Data => self.data,
            Stage::Final => self.last,
        }
    }
}

/// The TLSA records that a host is held to (DANE).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promise {
    /// One at least.
    pub records: Vec<Tlsa>,
    /// Names that a certificate of an authority among them may have: the TLSA base domain, then the domain of the mail.
    pub names: Vec<Box<str>>,
}

/// What is wrong with a host's TLS, as reports tell it apart (RFC 8460 §4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsFault {
    /// It does not offer STARTTLS, or refuses it.
    NotOffered,
    /// The handshake failed.
    Handshake,
    /// The certificate is for other names.
    HostMismatch,
    /// A certificate is out of date.
    Expired,
    /// No authority that is known vouches for it.
    NotTrusted,
    /// It matches none of the TLSA records.
    TlsaMismatch,
    /// Something else about the certificate.
    Other,
}

/// Where to connect to, from where, and how.
#[derive(Debug, Clone)]
pub struct Target {
    /// Name of the MX host (or an address as text): SNI, and the name that a certificate must have.
    pub host: String,
    /// Its address and port.
    pub address: SocketAddr,
    /// Source address; `None` leaves it to the kernel.
    pub bind: Option<IpAddr>,
    /// Bind even when the address is on no interface (IP_FREEBIND).
    pub freebind: bool,
    /// Our name in EHLO.
    pub ehlo: String,
    /// Whether and how to use TLS. `None` also after an opportunistic handshake failed.
    pub tls: OutboundTls,
    /// Lowest version of TLS.
    pub minimum: TlsVersion,
    /// Use OpenSSL with everything that is out of date.
    pub old_tls: bool,
    /// The host's TLSA records; with them TLS is needed, whatever `tls` says.
    pub tlsa: Option<Arc<Promise>>,
    /// Bounds on every wait.
    pub timeouts: Timeouts,
}

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{stage}: {detail}")]
pub struct OpenError {
    /// How far it came. [`Stage::Bind`] is about the source, the others about the host.
    pub stage: Stage,
    /// What the host said, if it said no.
    pub reply: Option<Reply>,
    /// What was tried, on what, and why it failed.
    pub detail: String,
    /// TLS was only opportunistic and its handshake failed: another connection, with
    /// [`Target::tls`] set to [`OutboundTls::None`], may do. It is left to the caller, because
    /// it counts as a connection against the limits of the lane.
    pub plain_text_may_do: bool,
    /// What is wrong with the host's TLS, if that is it.
    pub fault: Option<TlsFault>,
}

impl OpenError {
    fn new(stage: Stage, detail: String) -> Self {
        Self { stage, reply: None, detail, plain_text_may_do: false, fault: None }
    }

    fn refused(stage: Stage, what: &str, reply: Reply) -> Self {
        let detail = format!("{what}: {reply}");
        Self { stage, detail, reply: Some(reply), plain_text_may_do: false, fault: None }
    }

    fn with(self, fault: TlsFault) -> Self {
        Self { fault: Some(fault), ..self }
    }
}

/// Why a [`Connector`] cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectorError {
    /// The file of extra roots.
    #[error("[delivery] extra-roots: {0}")]
    ExtraRoots(#[from] RootsError),
    /// The TLS library.
    #[error("cannot set up TLS: {0}")]
    Tls(String),
}

/// Opens connections. Holds the TLS configurations and the sessions to resume; share one.
pub struct Connector {
    tls: Tls,
}

impl Connector {
    /// Loads the trusted roots.
    pub fn new(delivery: &Delivery) -> Result<Self, ConnectorError> {
        Ok(Self { tls: Tls::new(delivery.extra_roots.as_deref())? })
    }

    /// Connects, greets and starts TLS as the target asks. One TCP connection, never two.
    pub async fn open(&self, target: &Target) -> Result<Connection, OpenError> {
        let stream = connect(target).await?;
        let mut wire = Wire::new(Stream::Plain(stream));
        let greeting = wire
            .wait_reply(target.timeouts.greeting)
            .await
            .map_err(|detail| OpenError::new(Stage::Greeting, detail))?;
        if !greeting.is_positive() {
            return Err(OpenError::refused(Stage::Greeting, "the host does not want the connection", greeting));
        }
        let capabilities = greet(&mut wire, target).await?;
        let insist = target.tlsa.is_some() || matches!(target.tls, OutboundTls::Required | OutboundTls::Verified);
        let connection = match target.tls {
            OutboundTls::None if !insist => Connection::new(wire, target, capabilities),
            _ if capabilities.starttls => self.start_tls(wire, target, capabilities, insist).await?,
            _ if insist => {
                let detail = "the host does not offer STARTTLS and TLS is required".to_owned();
                return Err(OpenError::new(Stage::Tls, detail).with(TlsFault::NotOffered));
            }
            _ => Connection::new(wire, target, capabilities),
        };
        Ok(connection)
    }

    async fn start_tls(
        &self,
        mut wire: Wire,
        target: &Target,
        capabilities: Capabilities,
        insist: bool,
    ) -> Result<Connection, OpenError> {
        let wait = target.timeouts.data;
        let failed =
            |detail, fault| OpenError { plain_text_may_do: !insist, ..OpenError::new(Stage::Tls, detail) }.with(fault);
        let reply = wire
            .ask(b"STARTTLS\r\n", &target.timeouts, wait)
            .await
            .map_err(|detail| failed(detail, TlsFault::NotOffered))?;
        if reply.code == 421 {
            return Err(OpenError::refused(Stage::Tls, "the host closed the connection at STARTTLS", reply));
        }
        if !reply.is_positive() {
            if insist {
                let what = "the host refused STARTTLS and TLS is required";
                return Err(OpenError::refused(Stage::Tls, what, reply).with(TlsFault::NotOffered));
            }
            let mut connection = Connection::new(wire, target, capabilities);
            connection.tls_failure = Some(format!("the host refused STARTTLS: {reply}"));
            return Ok(connection);
        }
        // Octets that came before the handshake were put there by somebody in between (RFC 3207 §6, CVE-2021-38371).
        let (stream, unused) = wire.into_stream();
        if unused > 0 {
            log::warn!("{} [{}] sent plain text after STARTTLS; it was dropped", target.host, target.address);
        }
        let Stream::Plain(stream) = stream else {
            return Err(OpenError::new(Stage::Tls, "STARTTLS inside TLS".to_owned()));
        };
        let verified = target.tls == OutboundTls::Verified;
        let (stream, result) = match timeout(wait, self.tls.connect(stream, target, verified)).await {
            Ok(Ok(connected)) => connected,
            Ok(Err(refused)) => return Err(failed(refused.detail, refused.fault)),
            Err(_) => return Err(failed(format!("no TLS handshake within {wait:?}"), TlsFault::Handshake)),
        };
        let mut wire = Wire::new(stream);
        // What was said before TLS may have been forged and is forgotten.
        let capabilities = greet(&mut wire, target).await?;
        let mut connection = Connection::new(wire, target, capabilities);
        connection.tls = Some(result);
        Ok(connection)
    }
}

/// EHLO, or HELO to a host that does not know it.
async fn greet(wire: &mut Wire, target: &Target) -> Result<Capabilities, OpenError> {
    let failed = |detail| OpenError::new(Stage::Ehlo, detail);
    let wait = target.timeouts.mail;
    let command = format!("EHLO {}\r\n", target.ehlo);
    let reply = wire.ask(command.as_bytes(), &target.timeouts, wait).await.map_err(failed)?;
    if reply.is_positive() {
        return Ok(Capabilities::from_ehlo(&reply));
    }
    if !reply.is_permanent() {
        return Err(OpenError::refused(Stage::Ehlo, "the host refused EHLO", reply));
    }
    let command = format!("HELO {}\r\n", target.ehlo);
    let reply = wire.ask(command.as_bytes(), &target.timeouts, wait).await.map_err(failed)?;
    if reply.is_positive() {
        return Ok(Capabilities::default());
    }
    Err(OpenError::refused(Stage::Ehlo, "the host refused EHLO and HELO", reply))
}

async fn connect(target: &Target) -> Result<TcpStream, OpenError> {
    let address = target.address;
    let socket = socket(target)?;
    let connected = timeout(target.timeouts.connect, socket.connect(address)).await;
    let failure = match connected {
        Ok(Ok(stream)) => {
            // Without it the last piece of a message waits for the peer's delayed acknowledgement.
            if let Err(error) = stream.set_nodelay(true) {
                log::debug!("cannot set TCP_NODELAY towards {address}: {error}");
            }
            // Whatever ends without QUIT ends with a reset: what the kernel has not sent yet, it will not send when
            // we have given up on it, or are dead. Nobody must get mail after somebody was told that they will not.
            if let Err(error) = SockRef::from(&stream).set_linger(Some(Duration::ZERO)) {
                log::debug!("cannot set SO_LINGER towards {address}: {error}");
            }
            return Ok(stream);
        }
        Ok(Err(error)) => error,
        Err(_) => io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {:?}", target.timeouts.connect)),
    };
    if let Some(source) = target.bind.filter(|source| is_about_source(&failure, *source, target.freebind)) {
        let detail = format!("cannot send from {source} to {address}: {failure}; put the address on an interface");
        return Err(OpenError::new(Stage::Bind, detail));
    }
    Err(OpenError::new(Stage::Connect, format!("cannot connect to {} [{address}]: {failure}", target.host)))
}

/// Whether a connect failed because of the source: it has no free port, or
/// freebind let an address through that is not ours, which the kernel notices
/// only now, in words that differ, or never.
fn is_about_source(failure: &io::Error, source: IpAddr, freebind: bool) -> bool {
    if failure.kind() == io::ErrorKind::AddrNotAvailable {
        return true;
    }
    freebind
        && std::net::UdpSocket::bind((source, 0)).is_err_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable)
}

fn socket(target: &Target) -> Result<TcpSocket, OpenError> {
    let address = target.address;
    let open = || -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    let socket = open()
        .map_err(|error| OpenError::new(Stage::Connect, format!("cannot open a socket towards {address}: {error}")))?;
    if let Some(source) = target.bind {
        let bind = || -> io::Result<()> {
            // The port is chosen at connect, so that one source address has a whole range of
            // ports towards each host, and not one range for the world. Older kernels do without.
            if let Err(error) = nix::sys::socket::setsockopt(&socket, IpBindAddressNoPort, &true) {
                log::debug!("cannot set IP_BIND_ADDRESS_NO_PORT towards {address}: {error}");
            }
            if target.freebind {
                match address {
                    SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
                    SocketAddr::V6(_) => socket.set_freebind_v6(true)?,
                }
            }
            socket.bind(&SocketAddr::new(source, 0).into())
        };
        bind().map_err(|error| {
            let detail = format!(
                "cannot bind to {source} towards {address}: {error}; put the address on an interface, or set freebind"
            );
            OpenError::new(Stage::Bind, detail)
        })?;
    }
    Ok(TcpSocket::from_std_stream(socket.into()))
}
