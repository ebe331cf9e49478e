//! systemd, and what it has for the network, the time and the name of the machine, over D-Bus.

use zbus::{Connection, OwnedObjectPath};

/// Starting a unit only queues it, and networkd reads a handful of files: what takes longer hangs.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(8);

/// What systemd tells about a unit: name, description, loaded, active, substate, followed, path, job and its kind and path.
type Listed = (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Manager {
    fn start_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn list_units_by_names(&self, names: &[&str]) -> zbus::Result<Vec<Listed>>;
    fn list_units_filtered(&self, states: &[&str]) -> zbus::Result<Vec<Listed>>;
}

#[zbus::proxy(interface = "org.freedesktop.systemd1.Service", default_service = "org.freedesktop.systemd1")]
trait Service {
    #[zbus(property(emits_changed_signal = "false"))]
    fn status_text(&self) -> zbus::Result<String>;
}

#[zbus::proxy(
    interface = "org.freedesktop.network1.Manager",
    default_service = "org.freedesktop.network1",
    default_path = "/org/freedesktop/network1"
)]
trait Networks {
    fn describe(&self) -> zbus::Result<String>;
    fn reload(&self) -> zbus::Result<()>;
}

#[zbus::proxy(
    interface = "org.freedesktop.timedate1",
    default_service = "org.freedesktop.timedate1",
    default_path = "/org/freedesktop/timedate1"
)]
trait Time {
    #[zbus(property(emits_changed_signal = "false"), name = "NTPSynchronized")]
    fn synchronized(&self) -> zbus::Result<bool>;
}

#[zbus::proxy(
    interface = "org.freedesktop.hostname1",
    default_service = "org.freedesktop.hostname1",
    default_path = "/org/freedesktop/hostname1"
)]
trait Hostname {
    #[zbus(property(emits_changed_signal = "false"))]
    fn hostname(&self) -> zbus::Result<String>;
}

/// A unit as systemd tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unit {
    pub(crate) name: String,
    pub(crate) loaded: String,
    pub(crate) active: String,
    path: OwnedObjectPath,
}

/// A connection to the bus of the system.
#[derive(Debug, Clone)]
pub(crate) struct Bus {
    connection: Connection,
}

impl Bus {
    pub(crate) async fn system() -> Result<Self, String> {
        let connection = zbus::connection::Builder::system().method_timeout(PATIENCE).build();
        let connection = tokio::time::timeout(PATIENCE, connection)
            .await
            .map_err(|_| "the system's D-Bus does not answer in time; see dbus-broker.service in the log".to_owned())?;
        let connection =
            connection.map_err(|error| format!("cannot reach the system's D-Bus: {error}; is it running?"))?;
        Ok(Self { connection })
    }

    #[cfg(test)]
    pub(crate) fn over(connection: Connection) -> Self {
        Self { connection }
    }

    /// Starts a unit as `systemctl` would.
    pub(crate) async fn start(&self, unit: &str, mode: &str) -> Result<(), String> {
        let failed = |error: zbus::Error| format!("systemd does not start {unit}: {error}");
        let manager = ManagerProxy::new(&self.connection).await.map_err(failed)?;
        manager.start_unit(unit, mode).await.map(drop).map_err(failed)
    }

    pub(crate) async fn units(&self, names: &[&str]) -> Result<Vec<Unit>, String> {
        let manager = ManagerProxy::new(&self.connection).await.map_err(asked)?;
        Ok(manager.list_units_by_names(names).await.map_err(asked)?.into_iter().map(unit).collect())
    }

    pub(crate) async fn failed(&self) -> Result<Vec<String>, String> {
        let manager = ManagerProxy::new(&self.connection).await.map_err(asked)?;
        let listed = manager.list_units_filtered(&["failed"]).await.map_err(asked)?;
        Ok(listed.into_iter().map(|listed| listed.0).collect())
    }

    /// What a service says of itself.
    pub(crate) async fn status_text(&self, unit: &Unit) -> Result<String, String> {
        let builder = ServiceProxy::builder(&self.connection).path(&unit.path);
        let service = builder.cache_properties(zbus::proxy::CacheProperties::No).build().await.map_err(asked)?;
        service.status_text().await.map_err(asked)
    }

    /// Whether a time server has set the clock.
    pub(crate) async fn is_time_synchronized(&self) -> Result<bool, String> {
        let failed = |error: zbus::Error| format!("systemd-timedated does not tell about the time: {error}");
        TimeProxy::new(&self.connection).await.map_err(failed)?.synchronized().await.map_err(failed)
    }

    /// What the machine is called.
    pub(crate) async fn hostname(&self) -> Result<String, String> {
        let failed = |error: zbus::Error| format!("systemd-hostnamed does not tell the name of the machine: {error}");
        HostnameProxy::new(&self.connection).await.map_err(failed)?.hostname().await.map_err(failed)
    }

    /// The network as networkd describes it, in JSON.
    pub(crate) async fn describe_network(&self) -> Result<String, String> {
        let failed = |error: zbus::Error| format!("systemd-networkd does not tell about the network: {error}");
        NetworksProxy::new(&self.connection).await.map_err(failed)?.describe().await.map_err(failed)
    }

    /// Makes networkd read its files again.
    pub(crate) async fn reload_network(&self) -> Result<(), String> {
        let failed = |error: zbus::Error| format!("systemd-networkd does not read its files again: {error}");
        NetworksProxy::new(&self.connection).await.map_err(failed)?.reload().await.map_err(failed)
    }
}

fn unit(listed: Listed) -> Unit {
    let (name, _, loaded, active, _, _, path, ..) = listed;
    Unit { name, loaded, active, path }
}

fn asked(error: zbus::Error) -> String {
    format!("systemd does not tell about its units: {error}")
}
