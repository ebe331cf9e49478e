//! One outgoing connection against scripted peers over real loopback sockets.

mod honest;
mod independent;
mod peer;
mod plain;
mod throughput;
mod tls;
