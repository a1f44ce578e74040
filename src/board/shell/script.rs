//! Owns what is written to a board's shell to give it a job: the receiver's script, encodings and checksums.
//! Never decides when anything is written.

use std::fmt::Write;

use crc::{CRC_32_CKSUM, Crc};
use md5::Md5;
use sha2::{Digest, Sha256};

/// The program on the board that takes the job.
const RECEIVER: &str = include_str!("receiver.sh");

/// What a board's shell offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tools {
    pub base64: bool,
    pub gzip: bool,
    pub sum: Sum,
}

/// A program that tells whether a file arrived whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sum {
    Sha256,
    Md5,
    /// POSIX `cksum`.
    Cksum,
    /// The length alone.
    Wc,
}

impl Sum {
    /// Best first.
    pub const ALL: [Sum; 4] = [Sum::Sha256, Sum::Md5, Sum::Cksum, Sum::Wc];

    pub const fn program(self) -> &'static str {
        match self {
            Sum::Sha256 => "sha256sum",
            Sum::Md5 => "md5sum",
            Sum::Cksum => "cksum",
            Sum::Wc => "wc",
        }
    }

    /// The command before a file's name, or reading standard input.
    pub const fn command(self) -> &'static str {
        match self {
            Sum::Wc => "wc -c",
            other => other.program(),
        }
    }

    /// The first word that the command prints for these bytes.
    pub fn of(self, bytes: &[u8]) -> String {
        match self {
            Sum::Sha256 => hex::encode(Sha256::digest(bytes)),
            Sum::Md5 => hex::encode(Md5::digest(bytes)),
            Sum::Cksum => cksum(bytes).to_string(),
            Sum::Wc => bytes.len().to_string(),
        }
    }

    /// Whether a line of the console is what the command prints for these bytes. A prompt or an echo may stand before it.
    pub fn is_shown(self, line: &str, sum: &str) -> bool {
        line.split_whitespace().any(|word| word == sum)
    }
}

/// POSIX.1-2017, cksum: the CRC of the bytes and of their number, the least significant byte first.
fn cksum(bytes: &[u8]) -> u32 {
    let algorithm = Crc::<u32>::new(&CRC_32_CKSUM);
    let mut digest = algorithm.digest();
    digest.update(bytes);
    let mut length = bytes.len();
    while length > 0 {
        digest.update(&[(length & 0xff) as u8]);
        length >>= 8;
    }
    digest.finalize()
}

impl Tools {
    /// The receiver's script for a board with these tools. It unpacks the job in the directory `name` beside its own.
    pub fn receiver(self, name: &str) -> String {
        let (keep, decode) = match self.base64 {
            true => (r#"echo "$d" >>t"#, "base64 -d <t >j"),
            false => (r#"printf "$d" >>t"#, "cat t >j"),
        };
        let unpack = match self.gzip {
            true => r#"gzip -dc <"$p/j" | tar -xf -"#,
            false => r#"tar -xf "$p/j""#,
        };
        let script: String = RECEIVER
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| format!("{line}\n"))
            .collect();
        script
            .replace("@KEEP@", keep)
            .replace("@DECODE@", decode)
            .replace("@SUM@", self.sum.command())
            .replace("@UNPACK@", unpack)
            .replace("@NAME@", name)
    }

    /// How many bytes of the job a line of `length` characters holds at least.
    pub const fn capacity(self, length: usize) -> usize {
        match self.base64 {
            true => length / 4 * 3,
            false => length / 4,
        }
    }

    /// Bytes as one word without blanks, for the receiver.
    pub fn encode(self, bytes: &[u8]) -> String {
        match self.base64 {
            true => base64(bytes),
            false => octal(bytes, |byte| {
                byte.is_ascii_alphanumeric() || b"_.,/:+-=@".contains(&byte)
            }),
        }
    }
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group
            .iter()
            .fold(0_usize, |bits, byte| bits << 8 | usize::from(*byte))
            << (8 * (3 - group.len()));
        for place in 0..4 {
            let digit = DIGITS[bits >> (18 - 6 * place) & 63];
            out.push(if place > group.len() {
                '='
            } else {
                digit.into()
            });
        }
    }
    out
}

/// Bytes in a format of printf(1): three digits each, but those that stand for themselves.
fn octal(bytes: &[u8], is_plain: impl Fn(u8) -> bool) -> String {
    let mut out = String::new();
    // printf takes a word that begins with a hyphen for an option.
    for (index, byte) in bytes.iter().enumerate() {
        if is_plain(*byte) && !(index == 0 && *byte == b'-') {
            out.push((*byte).into());
        } else {
            let _ = write!(out, "\\{byte:03o}");
        }
    }
    out
}

/// A command that writes `bytes` into `file`. It has no quotes and no brackets: where a byte of it is lost, it fails, and
/// leaves the shell in no state in which the next command would be understood otherwise.
pub fn print_into(bytes: &[u8], file: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.,/:+-=@".contains(&byte);
    // The shell takes one of two backslashes; POSIX has \0ddd for %b.
    let text = octal(bytes, plain).replace('\\', "\\\\0");
    // Behind a digit, `>` would be another descriptor's.
    format!("printf %b>{file} {text}")
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;

    fn output(program: &str, arguments: &[&str], input: &[u8]) -> Vec<u8> {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap().stdout
    }

    fn all_bytes() -> Vec<u8> {
        (0..=255)
            .chain(*b"-plain \\ % text\n")
            .chain(0..9)
            .collect()
    }

    #[test]
    fn sums_are_those_of_the_programs() {
        for bytes in [Vec::new(), b"a".to_vec(), all_bytes(), vec![7; 70_000]] {
            for sum in Sum::ALL {
                // Debian's busybox has no cksum.
                let of_busybox = (sum != Sum::Cksum).then(|| format!("busybox {}", sum.command()));
                for command in of_busybox.into_iter().chain([sum.command().to_string()]) {
                    let words: Vec<&str> = command.split(' ').collect();
                    let said = output(words[0], &words[1..], &bytes);
                    let said = String::from_utf8(said).unwrap();
                    assert!(sum.is_shown(&said, &sum.of(&bytes)), "{command}: {said}");
                }
            }
        }
    }

    #[test]
    fn both_encodings_are_decoded_by_the_shells_that_boards_have() {
        let bytes = all_bytes();
        for length in [0, 1, 2, 3, bytes.len()] {
            let bytes = &bytes[bytes.len() - length..];
            let text = base64(bytes);
            assert_eq!(output("base64", &["-d"], text.as_bytes()), bytes);
        }
        let tools = Tools {
            base64: false,
            gzip: false,
            sum: Sum::Wc,
        };
        for shell in [&["dash"][..], &["bash"], &["busybox", "sh"]] {
            let run = |script: &str| {
                let mut words = shell[1..].to_vec();
                words.extend(["-c", script]);
                output(shell[0], &words, b"")
            };
            let line = tools.encode(&bytes);
            assert!(!line.contains(char::is_whitespace));
            assert_eq!(
                run(&format!("d='{line}'; printf \"$d\"")),
                bytes,
                "{shell:?}"
            );
            assert_eq!(run(&print_into(b"2", "/dev/stdout")), b"2");
            let typed = print_into(&bytes, "/dev/stdout");
            assert_eq!(run(&typed), bytes, "{shell:?}");
        }
    }

    #[test]
    fn a_typed_command_opens_nothing_that_the_next_one_would_have_to_close() {
        let tools = Tools {
            base64: true,
            gzip: true,
            sum: Sum::Sha256,
        };
        let typed = print_into(tools.receiver("lava-1").as_bytes(), "r0");
        assert!(
            !typed.contains(['\'', '"', '`', '(', '{', '<', '#', '&', ';']),
            "{typed}"
        );
    }
}
