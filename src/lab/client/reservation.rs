//! Owns a reservation that lasts as long as its holder: it gives signs of life in a thread, and is released at its end.
//! Never decides for how long.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;

use super::calls::{Client, Status};
use crate::error::cause_of;
use crate::lab::service::ReserveRequest;

/// Seconds between signs of life.
const BEAT: f64 = 5.0;
/// How long one request waits for a board that is in use, in seconds.
const WAIT: f64 = 30.0;

/// A board that is reserved until this is dropped, or this process ends.
pub struct Reservation {
    client: Client,
    token: String,
    stop: Sender<()>,
    thread: Option<JoinHandle<()>>,
    lost: Arc<AtomicBool>,
}

impl Client {
    /// Reserves a board for `seconds`, whether this process lives or not.
    pub fn reserve_for(&self, board: &str, seconds: f64, why: &str, wait: bool) -> Result<()> {
        self.reserve_or_wait(board, seconds, why, None, wait, &mut |_| ())
            .map(drop)
    }

    /// Reserves a board for as long as this process lives and keeps the reservation, at most `seconds`. `note` is told, once,
    /// that the board is waited for.
    pub fn reserve_while(
        &self,
        board: &str,
        seconds: f64,
        why: &str,
        wait: bool,
        note: &mut dyn FnMut(&str),
    ) -> Result<Reservation> {
        let token = self.reserve_or_wait(board, seconds, why, Some(BEAT), wait, note)?;
        let (stop, stopped) = channel::<()>();
        let lost = Arc::new(AtomicBool::new(false));
        let (client, beating, is_lost) = (self.clone(), token.clone(), Arc::clone(&lost));
        let thread = std::thread::spawn(move || {
            let pause = Duration::from_secs_f64(BEAT);
            while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                // A lab that does not answer may come back in time.
                if let Err(error) = client.beat(&beating)
                    && cause_of::<Status>(&error) == Some(&Status(410))
                {
                    is_lost.store(true, Ordering::Relaxed);
                    log::warn!("{error:#}");
                    return;
                }
            }
        });
        Ok(Reservation {
            client: self.clone(),
            token,
            stop,
            thread: Some(thread),
            lost,
        })
    }

    fn reserve_or_wait(
        &self,
        board: &str,
        seconds: f64,
        why: &str,
        beat: Option<f64>,
        wait: bool,
        note: &mut dyn FnMut(&str),
    ) -> Result<String> {
        let mut request = ReserveRequest {
            seconds,
            why: why.into(),
            beat,
            wait: 0.0,
        };
        loop {
            match self.reserve(board, &request) {
                Ok(lease) => return Ok(lease.token),
                Err(error) if wait && cause_of::<Status>(&error) == Some(&Status(409)) => {
                    if request.wait == 0.0 {
                        note(&format!("{error}; waiting for it"));
                    }
                    request.wait = WAIT;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Reservation {
    /// Whether the lab has ended it before its time.
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let _ = self.stop.send(());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        if !self.is_lost()
            && let Err(error) = self.client.release(&self.token)
        {
            log::warn!("the board could not be released: {error:#}");
        }
    }
}
