//! Who is in: connections counted in all and by address. IPv6 clients count by their /64,
//! since one client has all of it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// The counts.
#[derive(Default)]
pub(crate) struct Guests {
    total: AtomicUsize,
    by_address: Mutex<HashMap<IpAddr, u32>>,
    someone_left: Notify,
}

/// A connection that is counted until this is dropped.
pub(crate) struct Guest(Arc<Guests>);

/// A connection that is counted for its address until this is dropped.
pub(crate) struct Seat {
    guests: Arc<Guests>,
    address: IpAddr,
}

impl Guests {
    pub(crate) fn total(&self) -> usize {
        self.total.load(Ordering::Acquire)
    }

    pub(crate) fn enter(self: &Arc<Self>) -> Guest {
        self.total.fetch_add(1, Ordering::AcqRel);
        Guest(Arc::clone(self))
    }

    /// A seat for a client at that address; `None` when it has `limit` already.
    pub(crate) fn seat(self: &Arc<Self>, address: IpAddr, limit: u32) -> Option<Seat> {
        let address = counted_address(address);
        let mut by_address = self.by_address.lock();
        let count = by_address.entry(address).or_default();
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(Seat { guests: Arc::clone(self), address })
    }

    /// Waits until fewer than `limit` are in.
    pub(crate) async fn fewer_than(&self, limit: usize) {
        loop {
            let left = self.someone_left.notified();
            tokio::pin!(left);
            left.as_mut().enable();
            if self.total() < limit {
                return;
            }
            left.await;
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.0.total.fetch_sub(1, Ordering::AcqRel);
        self.0.someone_left.notify_waiters();
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut by_address = self.guests.by_address.lock();
        if let Some(count) = by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&self.address);
            }
        }
    }
}

fn counted_address(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !(u128::MAX >> 64))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_are_counted_by_address_and_given_back() {
        let guests = Arc::new(Guests::default());
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let first = guests.seat(address, 2);
        let _second = guests.seat(address, 2).unwrap();
        assert!(guests.seat(address, 2).is_none());
        assert!(guests.seat("192.0.2.2".parse().unwrap(), 2).is_some());
        drop(first);
        assert!(guests.seat("::ffff:192.0.2.1".parse().unwrap(), 2).is_some());
    }

    #[test]
    fn an_ipv6_network_of_64_bits_is_one_client() {
        let guests = Arc::new(Guests::default());
        let _seat = guests.seat("2001:db8::1".parse().unwrap(), 1).unwrap();
        assert!(guests.seat("2001:db8::ffff:1".parse().unwrap(), 1).is_none());
        assert!(guests.seat("2001:db8:0:1::1".parse().unwrap(), 1).is_some());
    }
}
