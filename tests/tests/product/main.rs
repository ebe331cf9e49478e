//! Tests of the whole product as processes, against software nobody here
//! wrote. One program, so that it links once; each test is independent and may
//! run beside the others.

mod accounting_reasons;
mod age_programs;
mod certificates;
mod crash;
mod data_format;
mod delivery;
mod disk;
mod events;
mod events_brokers;
mod feedback;
mod harness;
mod health;
mod http;
mod http_obstacles;
mod intake;
mod interoperability;
mod limits;
mod management;
mod metrics;
mod obstacles;
mod powermta;
mod protection;
mod queue;
mod rehearsal;
mod reload;
mod replies;
mod reports;
mod sealed_volume;
mod smuggling;
mod suppression;
mod suppression_calls;
mod tls;
mod tpm;
mod unsubscribe;
mod update_mirror;
