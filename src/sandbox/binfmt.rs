//! Owns how foreign programs are run: finds qemu-user and registers it for the user namespace.
//! Never touches the host's registrations.
//!
//! See the kernel's Documentation/admin-guide/binfmt-misc.rst. Since Linux 6.7 each user namespace can have an
//! instance of its own. Flags: F opens the interpreter now, so that it need not be in the image; P keeps argv[0];
//! O hands over the opened program; C takes credentials from the program, so that setuid ones work.

use std::env;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use object::read::elf::{FileHeader, ProgramHeader};

use crate::arch::Arch;
use crate::error::Fault;

const INSTANCE: &str = "/proc/sys/fs/binfmt_misc";

/// Makes programs of `arch` run in this user namespace and mount namespace, both just made.
///
/// # Errors
/// [`Fault::host`] where qemu-user is missing, or the kernel is older than 6.7 and the host has not registered it.
pub fn register(arch: Arch) -> Result<()> {
    if runs_natively(arch, env::consts::ARCH) {
        return Ok(());
    }
    let host_has_it = host_registration(Path::new(INSTANCE), arch);
    if let Err(errno) = mount_instance() {
        if host_has_it {
            return Ok(());
        }
        let sentence = format!(
            "the kernel lets hearth register qemu-{} for nobody but itself only since Linux 6.7, and the host has not \
             registered it ({})",
            arch.qemu(),
            errno.desc()
        );
        let remedy = format!("{}, which registers it for the whole host", install(arch));
        return Err(Fault::host(sentence).remedy(remedy).into());
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let directories =
        env::split_paths(&path).chain(["/usr/bin", "/usr/local/bin"].map(PathBuf::from));
    let qemu = find_qemu(arch, directories)?;
    fs::write(
        Path::new(INSTANCE).join("register"),
        registration(arch, &qemu)?,
    )
    .with_context(|| format!("cannot register {}", qemu.display()))
}

/// Only the very same architecture: whether a 64-bit ARM processor still runs 32-bit programs is not known before trying.
fn runs_natively(arch: Arch, host: &str) -> bool {
    arch.qemu() == host
}

fn mount_instance() -> nix::Result<()> {
    let parent = if Path::new(INSTANCE).is_dir() {
        INSTANCE
    } else {
        "/proc/sys/fs"
    };
    mount(
        Some("binfmt_misc"),
        parent,
        Some("binfmt_misc"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        None::<&str>,
    )
}

/// Whether the host has an enabled registration for the architecture with the F flag.
fn host_registration(instance: &Path, arch: Arch) -> bool {
    let magic = format!("magic {}", hex::encode(magic(arch).0));
    let Ok(entries) = fs::read_dir(instance) else {
        return false;
    };
    entries.flatten().any(|entry| {
        fs::read_to_string(entry.path()).is_ok_and(|text| {
            text.starts_with("enabled")
                && text.contains(&magic)
                && text
                    .lines()
                    .any(|line| line.starts_with("flags:") && line.contains('F'))
        })
    })
}

/// A statically linked qemu-user on the host: `qemu-arm-static` or `qemu-arm`. A dynamically linked one
/// would look for its libraries in the image.
fn find_qemu(arch: Arch, directories: impl Iterator<Item = PathBuf>) -> Result<PathBuf> {
    let names = [
        format!("qemu-{}-static", arch.qemu()),
        format!("qemu-{}", arch.qemu()),
    ];
    let mut dynamic = None;
    for dir in directories {
        for name in &names {
            let candidate = dir.join(name);
            let executable = fs::metadata(&candidate)
                .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
            if executable && is_static(&candidate)? {
                return Ok(fs::canonicalize(candidate)?);
            }
            if executable {
                dynamic.get_or_insert(candidate);
            }
        }
    }
    let sentence = match dynamic {
        None => format!("{} is missing, which runs {arch} programs", names[0]),
        Some(found) => format!(
            "{} is linked dynamically and cannot run {arch} programs in an image",
            found.display()
        ),
    };
    Err(Fault::host(sentence).remedy(install(arch)).into())
}

fn install(arch: Arch) -> String {
    format!(
        "install qemu-{} linked statically: the package qemu-user-static (since Debian 13: qemu-user-binfmt)",
        arch.qemu()
    )
}

/// Whether an ELF file asks for no dynamic loader.
fn is_static(path: &Path) -> Result<bool> {
    use object::elf::{FileHeader32, FileHeader64, PT_INTERP};
    let data = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    fn asks<E: FileHeader<Endian = object::Endianness>>(data: &[u8]) -> object::Result<bool> {
        let header = E::parse(data)?;
        let endian = header.endian()?;
        Ok(header
            .program_headers(endian, data)?
            .iter()
            .any(|segment| segment.p_type(endian) == PT_INTERP))
    }
    let dynamic = match object::FileKind::parse(&*data) {
        Ok(object::FileKind::Elf32) => asks::<FileHeader32<object::Endianness>>(&data),
        Ok(object::FileKind::Elf64) => asks::<FileHeader64<object::Endianness>>(&data),
        _ => return Ok(false),
    };
    Ok(!dynamic.unwrap_or(true))
}

/// `:name:type:offset:magic:mask:interpreter:flags`, with `\xNN` escapes.
fn registration(arch: Arch, qemu: &Path) -> Result<String> {
    let qemu = qemu
        .to_str()
        .filter(|path| !path.contains([':', '\\', '\n']))
        .ok_or_else(|| {
            Fault::host(format!(
                "{} has a name that the kernel's binfmt_misc cannot take",
                qemu.display()
            ))
        })?;
    let escaped =
        |bytes: [u8; 20]| -> String { bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect() };
    let (magic, mask) = magic(arch);
    Ok(format!(
        ":qemu-{}:M::{}:{}:{qemu}:POCF",
        arch.qemu(),
        escaped(magic),
        escaped(mask)
    ))
}

/// The first 20 bytes of an ELF program of the architecture, and which bits of them count: little-endian, System V or
/// GNU ABI, executable or shared object (ELF specification, section 1-4: e_ident, e_type, e_machine).
fn magic(arch: Arch) -> ([u8; 20], [u8; 20]) {
    let (class, machine) = match arch {
        Arch::Armel | Arch::Armhf => (1, 40),
        Arch::Arm64 => (2, 183),
        Arch::Riscv64 => (2, 243),
    };
    let mut magic = [0; 20];
    magic[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', class, 1, 1]);
    magic[16] = 2;
    magic[18] = machine;
    let mut mask = [0xff; 20];
    // The ABI may be 0 or 3, and its version and the padding anything.
    mask[7] = 0xfc;
    mask[8..16].fill(0);
    // e_type 2 and 3: the lowest bit does not count.
    mask[16] = 0xfe;
    (magic, mask)
}

/// The architecture whose programs a root file system holds; armhf stands for armel too.
pub fn architecture_of(root: &Path) -> Option<Arch> {
    [
        "usr/bin/dpkg",
        "usr/bin/dash",
        "usr/bin/busybox",
        "bin/busybox",
        "bin/sh",
    ]
    .iter()
    .find_map(|program| {
        let mut header = [0; 20];
        fs::File::open(root.join(program))
            .ok()?
            .read_exact(&mut header)
            .ok()?;
        [Arch::Armhf, Arch::Arm64, Arch::Riscv64]
            .into_iter()
            .find(|arch| {
                let (magic, mask) = magic(*arch);
                (0..20).all(|i| (header[i] ^ magic[i]) & mask[i] == 0)
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Class, class_of, help_of};

    #[test]
    fn the_registration_matches_arm_programs_and_no_others() {
        let (magic, mask) = magic(Arch::Armhf);
        let matches = |program: &[u8; 20]| (0..20).all(|i| (program[i] ^ magic[i]) & mask[i] == 0);
        let mut program = *b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\x28\0";
        assert!(matches(&program));
        program[16] = 2;
        assert!(matches(&program));
        program[18] = 0x3e;
        assert!(!matches(&program));
        let line = registration(Arch::Armhf, Path::new("/usr/bin/qemu-arm-static")).unwrap();
        assert!(
            line.len() < 1920 && line.ends_with(":/usr/bin/qemu-arm-static:POCF"),
            "{line}"
        );
        assert!(registration(Arch::Armhf, Path::new("/a:b")).is_err());
    }

    #[test]
    fn a_missing_or_dynamic_qemu_is_the_hosts_fault() {
        let dir = tempfile::tempdir().unwrap();
        let find = || find_qemu(Arch::Riscv64, [dir.path().to_owned()].into_iter());
        let error = find().unwrap_err();
        assert_eq!(class_of(&error), Class::Host);
        assert!(
            error
                .to_string()
                .starts_with("qemu-riscv64-static is missing"),
            "{error}"
        );
        fs::copy("/bin/sh", dir.path().join("qemu-riscv64")).unwrap();
        let error = find().unwrap_err();
        assert!(error.to_string().contains("linked dynamically"), "{error}");
        assert!(help_of(&error).unwrap().contains("qemu-user-static"));
    }

    #[test]
    fn the_hosts_registration_counts_with_the_f_flag_only() {
        let dir = tempfile::tempdir().unwrap();
        let entry = |flags: &str| {
            format!(
                "enabled\ninterpreter /usr/bin/qemu-arm\nflags: {flags}\noffset 0\nmagic {}\n",
                hex::encode(magic(Arch::Armhf).0)
            )
        };
        fs::write(dir.path().join("qemu-arm"), entry("POF")).unwrap();
        assert!(host_registration(dir.path(), Arch::Armel));
        assert!(!host_registration(dir.path(), Arch::Arm64));
        fs::write(dir.path().join("qemu-arm"), entry("PO")).unwrap();
        assert!(!host_registration(dir.path(), Arch::Armhf));
    }
}
