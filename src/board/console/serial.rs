//! A serial device, such as `/dev/ttyUSB0` or QEMU's pty.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use serialport::{SerialPort, TTYPort};

use super::{Console, settle};
use crate::error::{Class, Fault};

/// A serial line at 8N1 without flow control, for this process alone. A device that vanishes (a USB adapter
/// that was unplugged) is opened again when it is back.
pub(super) struct Serial {
    device: PathBuf,
    speed: u32,
    port: TTYPort,
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
            port,
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
        self.port.set_timeout(patience)?;
        match settle(self.port.read(buffer)) {
            Ok(count) => Ok(count),
            // Gone: it is back, or it is lost.
            Err(lost) => {
                std::thread::sleep(patience.min(Duration::from_secs(1)));
                self.port = port(&self.device, self.speed).map_err(|_| lost)?;
                Ok(0)
            }
        }
    }

    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        self.port.write_all(data)?;
        self.port.flush()
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
    fn a_missing_device_is_infrastructure() {
        let Err(error) = Serial::open(Path::new("/dev/no-such-tty"), 115_200) else {
            panic!("it opened");
        };
        assert_eq!(crate::error::class_of(&error), Class::Infrastructure);
    }
}
