//! Owns the requests of TFTP (RFC 1350, with options by RFC 2347), and the server as a task. Read-only; never decides which
//! files there are.

mod openers;
mod packet;
pub mod transfer;
mod transfers;

use std::sync::Arc;

use self::transfers::Transfers;
use crate::netboot::net::access::Access;
pub use packet::{Code, Content, Files, Refusal, Request, clean};

pub struct Tftp<F> {
    pub files: Arc<F>,
    pub access: Arc<Access>,
}

impl<F: Files + 'static> Tftp<F> {
    /// Answers requests until the task is dropped.
    pub async fn serve(self, socket: tokio::net::UdpSocket) {
        let started = socket
            .into_std()
            .and_then(|socket| Transfers::start(self.files, self.access, socket));
        match started {
            Ok(transfers) => transfers.ended().await,
            Err(error) => log::error!("tftp: cannot start: {error}"),
        }
    }
}
