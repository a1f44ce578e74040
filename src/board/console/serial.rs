//! A serial device, such as `/dev/ttyUSB0` or QEMU's pty.

use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serialport::{SerialPort, TTYPort};

use super::line::{Console, settle};
use crate::error::{Class, Fault};

/// A serial line at 8N1 without flow control, for this process alone.
pub(super) struct Serial {
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
        Ok(Serial { port })
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
        settle(self.port.read(buffer))
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
    use nix::sys::termios::{LocalFlags, Termios, tcgetattr};
    use nix::unistd::ttyname;
    use std::fs::File;
    use std::os::unix::fs::symlink;

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

    fn is_raw(tty: Termios) -> bool {
        !tty.local_flags.contains(LocalFlags::ICANON)
    }

    #[test]
    fn an_adapter_that_comes_back_under_another_node_is_found_by_its_link() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("usb-adapter");
        let plug = || {
            let pair = openpty(None, None).unwrap();
            symlink(ttyname(&pair.slave).unwrap(), &link).unwrap();
            pair
        };
        let first = plug();
        let mut console = crate::board::console::open(&crate::recipe::Console::Serial {
            device: link.clone(),
            speed: Some(9600),
        })
        .unwrap();
        std::fs::remove_file(&link).unwrap();
        drop(first);
        let mut buffer = [0; 64];
        let mut look = |console: &mut dyn Console| {
            let count = console
                .read(&mut buffer, Duration::from_millis(100))
                .unwrap();
            String::from_utf8(buffer[..count].to_vec()).unwrap()
        };
        while console.gone().is_none() {
            look(console.as_mut());
        }
        let second = plug();
        let mut board = File::from(second.master);
        let end = std::time::Instant::now() + Duration::from_secs(20);
        let mut seen = String::new();
        while seen.is_empty() && std::time::Instant::now() < end {
            if tcgetattr(&second.slave).is_ok_and(is_raw) {
                board.write_all(b"Linux").unwrap();
            }
            seen += &look(console.as_mut());
        }
        assert!(seen.starts_with("Linux"), "{seen}");
        assert!(console.missed().unwrap().contains("usb-adapter"));
    }

    #[test]
    fn a_missing_device_is_infrastructure() {
        let Err(error) = Serial::open(Path::new("/dev/no-such-tty"), 115_200) else {
            panic!("it opened");
        };
        assert_eq!(crate::error::class_of(&error), Class::Infrastructure);
    }
}
