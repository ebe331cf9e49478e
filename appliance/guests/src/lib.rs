//! Who is in: sockets counted in all, served clients counted in all and by address. IPv6 clients count by their /64, since one client
//! has all of it. Every server here counts with it, so that none is filled by one address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// The counts.
#[derive(Default)]
pub struct Guests {
    /// Sockets, also of those who are being turned away or have said goodbye.
    sockets: AtomicUsize,
    seats: Mutex<Seats>,
    someone_left: Notify,
}

#[derive(Default)]
struct Seats {
    taken: usize,
    by_address: HashMap<IpAddr, u32>,
}

/// A socket that is counted until this is dropped.
pub struct Guest(Arc<Guests>);

/// A client that is served until this is dropped.
pub struct Seat {
    guests: Arc<Guests>,
    address: IpAddr,
}

/// Why there is no seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoSeat {
    /// All are taken.
    Full,
    /// The client's address has its share.
    AddressFull,
}

impl Guests {
    /// Clients that are served.
    #[must_use]
    pub fn served(&self) -> usize {
        self.seats.lock().taken
    }

    /// A socket is there.
    #[must_use]
    pub fn enter(self: &Arc<Self>) -> Guest {
        self.sockets.fetch_add(1, Ordering::AcqRel);
        Guest(Arc::clone(self))
    }

    /// A seat for a client at that address, of `limit` in all and `share` for one address.
    ///
    /// # Errors
    /// There is none, and why.
    pub fn seat(self: &Arc<Self>, address: IpAddr, limit: usize, share: u32) -> Result<Seat, NoSeat> {
        let address = counted_address(address);
        let mut seats = self.seats.lock();
        if seats.taken >= limit {
            return Err(NoSeat::Full);
        }
        let count = seats.by_address.entry(address).or_default();
        if *count >= share {
            if *count == 0 {
                seats.by_address.remove(&address);
            }
            return Err(NoSeat::AddressFull);
        }
        *count += 1;
        seats.taken += 1;
        Ok(Seat { guests: Arc::clone(self), address })
    }

    /// Sockets of clients that are not served: being turned away, or saying goodbye.
    #[must_use]
    pub fn not_served(&self) -> usize {
        self.sockets.load(Ordering::Acquire).saturating_sub(self.served())
    }

    /// Waits until there are fewer than `limit` sockets.
    pub async fn fewer_sockets_than(&self, limit: usize) {
        self.wait_until(|guests| guests.sockets.load(Ordering::Acquire) < limit).await;
    }

    /// Waits until nobody is served.
    pub async fn all_served(&self) {
        self.wait_until(|guests| guests.served() == 0).await;
    }

    async fn wait_until(&self, is_so: impl Fn(&Self) -> bool) {
        loop {
            let left = self.someone_left.notified();
            tokio::pin!(left);
            left.as_mut().enable();
            if is_so(self) {
                return;
            }
            left.await;
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.0.sockets.fetch_sub(1, Ordering::AcqRel);
        self.0.someone_left.notify_waiters();
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = self.guests.seats.lock();
        seats.taken -= 1;
        if let Some(count) = seats.by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                seats.by_address.remove(&self.address);
            }
        }
        drop(seats);
        self.guests.someone_left.notify_waiters();
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
        let first = guests.seat(address, 3, 2).ok();
        let _second = guests.seat(address, 3, 2).ok().unwrap();
        assert_eq!(guests.seat(address, 3, 2).err(), Some(NoSeat::AddressFull));
        let _third = guests.seat("192.0.2.2".parse().unwrap(), 3, 2).ok().unwrap();
        assert_eq!(guests.seat("192.0.2.3".parse().unwrap(), 3, 2).err(), Some(NoSeat::Full));
        drop(first);
        assert!(guests.seat("::ffff:192.0.2.1".parse().unwrap(), 3, 2).is_ok());
        assert_eq!(guests.served(), 2);
    }

    #[test]
    fn an_ipv6_network_of_64_bits_is_one_client() {
        let guests = Arc::new(Guests::default());
        let _seat = guests.seat("2001:db8::1".parse().unwrap(), 9, 1).ok().unwrap();
        assert!(guests.seat("2001:db8::ffff:1".parse().unwrap(), 9, 1).is_err());
        assert!(guests.seat("2001:db8:0:1::1".parse().unwrap(), 9, 1).is_ok());
    }
}
