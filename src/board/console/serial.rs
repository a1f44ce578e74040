//! A serial device, such as `/dev/ttyUSB0` or QEMU's pty.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;
use serialport::{SerialPort, TTYPort};

use super::{Console, settle};
use crate::error::{Class, Fault};

/// How long to wait between attempts to open a device that is gone.
const AGAIN: Duration = Duration::from_millis(200);

/// A serial line at 8N1 without flow control, for this process alone. A device that vanishes (a USB adapter
/// that was unplugged) is opened again when it is back, whatever its name then leads to.
pub(super) struct Serial {
    device: PathBuf,
    speed: u32,
    /// The port, or since when it is gone.
    port: Result<TTYPort, Instant>,
}

impl Serial {
    pub(super) fn open(device: &Path, speed: u32) -> Result<Self> {
        let port = port(device, speed).map_err(|error| {
            let fault = Fault::new(
                Class::Infrastructure,
                format!("cannot open the console {}: {error}", device.display()),
            );
            match error.kind() {
                serialport::ErrorKind::Io(io::ErrorKind::PermissionDenied) => {
                    fault.remedy("add yourself to the group that owns it, usually `dialout`")
                }
                serialport::ErrorKind::NoDevice => {
                    fault.remedy("is it plugged in, and does another program use it?")
                }
                _ => fault,
            }
        })?;
        Ok(Serial {
            device: device.to_path_buf(),
            speed,
            port: Ok(port),
        })
    }
}

fn port(device: &Path, speed: u32) -> serialport::Result<TTYPort> {
    serialport::new(device.to_string_lossy(), speed)
        .timeout(Duration::from_millis(100))
        .open_native()
}

impl Console for Serial {
    fn read(&mut self, buffer: &mut [u8], patience: Duration) -> io::Result<usize> {
        match &mut self.port {
            Ok(tty) => {
                tty.set_timeout(patience).ok();
                match settle(tty.read(buffer)) {
                    Ok(count) => return Ok(count),
                    Err(error) => {
                        log::debug!("{} is gone: {error}", self.device.display());
                        self.port = Err(Instant::now());
                    }
                }
            }
            Err(_) => {
                std::thread::sleep(patience.min(AGAIN));
                // udev makes the node before it lets others use it, so that no error is the last word.
                if let Ok(tty) = port(&self.device, self.speed) {
                    self.port = Ok(tty);
                }
            }
        }
        Ok(0)
    }

    fn gone(&self) -> Option<Instant> {
        self.port.as_ref().err().copied()
    }

    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        // What is typed into nothing is lost, as on a cable that is unplugged.
        let Ok(tty) = &mut self.port else {
            return Ok(());
        };
        tty.write_all(data)?;
        tty.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::pty::openpty;
    use nix::unistd::ttyname;
    use std::fs::File;

    #[test]
    fn a_tty_is_read_and_written_and_is_ours_alone() {
        let pair = openpty(None, None).unwrap();
        let device = ttyname(&pair.slave).unwrap();
        let mut board = File::from(pair.master);
        let mut console = Serial::open(&device, 115_200).unwrap();
        let mut buffer = [0; 64];
        assert_eq!(
            console
                .read(&mut buffer, Duration::from_millis(10))
                .unwrap(),
            0
        );
        board.write_all(b"U-Boot\r\n").unwrap();
        let count = console.read(&mut buffer, Duration::from_secs(5)).unwrap();
        assert_eq!(&buffer[..count], b"U-Boot\r\n");
        console.write(b"\r").unwrap();
        let count = board.read(&mut buffer).unwrap();
        // Raw: neither echoed nor translated.
        assert_eq!(&buffer[..count], b"\r");
        drop(pair.slave);
    }

    #[test]
    fn a_device_that_vanishes_is_opened_again_under_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("tty");
        let plug = || {
            let pair = openpty(None, None).unwrap();
            std::fs::remove_file(&link).ok();
            std::os::unix::fs::symlink(ttyname(&pair.slave).unwrap(), &link).unwrap();
            pair
        };
        let pair = plug();
        let mut console = Serial::open(&link, 115_200).unwrap();
        let mut buffer = [0; 64];
        let mut read = |console: &mut Serial| {
            console
                .read(&mut buffer, Duration::from_millis(20))
                .map(|count| buffer[..count].to_vec())
                .unwrap()
        };
        assert_eq!(read(&mut console), b"");
        drop(pair);
        std::fs::remove_file(&link).unwrap();
        for _ in 0..20 {
            assert_eq!(read(&mut console), b"");
        }
        assert!(console.gone().is_some());
        console.write(b"typed into nothing").unwrap();
        let pair = plug();
        while console.gone().is_some() {
            read(&mut console);
        }
        let mut board = File::from(pair.master);
        board.write_all(b"again").unwrap();
        let mut said = Vec::new();
        while said.len() < 5 {
            said.extend(read(&mut console));
        }
        assert_eq!(said, b"again");
    }

    #[test]
    fn a_missing_device_is_infrastructure() {
        let Err(error) = Serial::open(Path::new("/dev/no-such-tty"), 115_200) else {
            panic!("it opened");
        };
        assert_eq!(crate::error::class_of(&error), Class::Infrastructure);
    }
}
