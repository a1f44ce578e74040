//! Owns the numbers and names of a uImage's operating systems, architectures, types and
//! compressions.
//! Never restricts what a writer accepts.
//!
//! Source: U-Boot, `include/image.h` (the `IH_OS_*`, `IH_ARCH_*`, `IH_TYPE_*` and `IH_COMP_*`
//! enumerations) and the name tables of `boot/image.c`.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// An unknown name.
#[derive(Debug, thiserror::Error)]
#[error("{name:?} is no {what}{}", suggestion(.close))]
pub struct UnknownName {
    /// The kind of name, such as `architecture`.
    pub what: &'static str,
    /// The unknown name.
    pub name: String,
    /// The most similar known name.
    pub close: Option<&'static str>,
    /// All known names.
    pub known: Vec<&'static str>,
}

fn suggestion(close: &Option<&'static str>) -> String {
    close.map_or_else(String::new, |name| format!(": did you mean {name}?"))
}

/// A number, its name on the command line, and its descriptive name.
pub struct NamedId<T> {
    pub id: T,
    pub name: &'static str,
    pub description: &'static str,
}

/// Defines a type for one of the header's four id bytes, with a constant and a table entry for each
/// known id. Any byte is a value of the type, since files may contain unknown ones. If two entries
/// have the same id, the first one names it.
macro_rules! ids {
    ($(#[$doc:meta])* $type:ident, $what:literal, { $($id:literal $constant:ident $name:literal $description:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub struct $type(pub u8);

        impl $type {
            $(#[doc = $description] pub const $constant: $type = $type($id);)*

            /// All ids that have a name, by number.
            pub const ALL: &'static [NamedId<$type>] = &[
                $(NamedId { id: $type::$constant, name: $name, description: $description },)*
            ];

            /// The name on the command line; `None` for an id without one.
            pub fn name(self) -> Option<&'static str> {
                Self::ALL.iter().find(|entry| entry.id == self).map(|entry| entry.name)
            }

            /// The descriptive name, such as `ARM`, as printed by mkimage.
            pub fn description(self) -> String {
                Self::ALL.iter().find(|entry| entry.id == self).map_or_else(
                    || format!(concat!("unknown ", $what, " {}"), self.0),
                    |entry| entry.description.to_string(),
                )
            }
        }

        impl FromStr for $type {
            type Err = UnknownName;

            /// Names are case-insensitive.
            fn from_str(name: &str) -> Result<Self, UnknownName> {
                if let Some(entry) = Self::ALL.iter().find(|e| e.name.eq_ignore_ascii_case(name)) {
                    return Ok(entry.id);
                }
                let known: Vec<_> = Self::ALL.iter().map(|entry| entry.name).collect();
                let close = closest(name, &known);
                Err(UnknownName { what: $what, name: name.to_string(), close, known })
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.name() {
                    Some(name) => f.write_str(name),
                    None => write!(f, "{}", self.0),
                }
            }
        }

        impl Serialize for $type {
            /// The name, or the number of an id without one.
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match self.name() {
                    Some(name) => serializer.serialize_str(name),
                    None => serializer.serialize_u8(self.0),
                }
            }
        }
    };
}

/// The most similar known name, if few letters differ.
fn closest(name: &str, known: &[&'static str]) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    let errors = 1 + name.len() / 5;
    known
        .iter()
        .map(|candidate| (strsim::osa_distance(&name, candidate), *candidate))
        .filter(|(distance, _)| *distance <= errors)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

ids! {
    /// The operating system that the image belongs to.
    Os, "operating system", {
        0 INVALID "invalid" "Invalid OS",
        1 OPENBSD "openbsd" "OpenBSD",
        2 NETBSD "netbsd" "NetBSD",
        3 FREEBSD "freebsd" "FreeBSD",
        4 BSD_4_4 "4_4bsd" "4_4BSD",
        5 LINUX "linux" "Linux",
        6 SVR4 "svr4" "SVR4",
        7 ESIX "esix" "Esix",
        8 SOLARIS "solaris" "Solaris",
        9 IRIX "irix" "Irix",
        10 SCO "sco" "SCO",
        11 DELL "dell" "Dell",
        12 NCR "ncr" "NCR",
        14 VXWORKS "vxworks" "VxWorks",
        15 PSOS "psos" "pSOS",
        16 QNX "qnx" "QNX",
        17 U_BOOT "u-boot" "U-Boot",
        18 RTEMS "rtems" "RTEMS",
        21 INTEGRITY "integrity" "INTEGRITY",
        22 OSE "ose" "Enea OSE",
        23 PLAN9 "plan9" "Plan 9",
        24 OPENRTOS "openrtos" "OpenRTOS",
        25 ARM_TRUSTED_FIRMWARE "arm-trusted-firmware" "ARM Trusted Firmware",
        26 TEE "tee" "Trusted Execution Environment",
        27 OPENSBI "opensbi" "RISC-V OpenSBI",
        28 EFI "efi" "EFI Firmware",
        29 ELF "elf" "ELF Image",
    }
}

ids! {
    /// The architecture that the image runs on. `bootm` refuses an image of another one.
    ImageArch, "architecture", {
        0 INVALID "invalid" "Invalid ARCH",
        1 ALPHA "alpha" "Alpha",
        2 ARM "arm" "ARM",
        3 X86 "x86" "Intel x86",
        4 IA64 "ia64" "IA64",
        5 MIPS "mips" "MIPS",
        6 MIPS64 "mips64" "MIPS 64 Bit",
        7 POWERPC "powerpc" "PowerPC",
        7 PPC "ppc" "PowerPC",
        8 S390 "s390" "IBM S390",
        9 SH "sh" "SuperH",
        10 SPARC "sparc" "SPARC",
        11 SPARC64 "sparc64" "SPARC 64 Bit",
        12 M68K "m68k" "M68K",
        14 MICROBLAZE "microblaze" "MicroBlaze",
        15 NIOS2 "nios2" "NIOS II",
        16 BLACKFIN "blackfin" "Blackfin",
        17 AVR32 "avr32" "AVR32",
        19 SANDBOX "sandbox" "Sandbox",
        20 NDS32 "nds32" "NDS32",
        21 OR1K "or1k" "OpenRISC 1000",
        22 ARM64 "arm64" "AArch64",
        23 ARC "arc" "ARC",
        24 X86_64 "x86_64" "AMD x86_64",
        25 XTENSA "xtensa" "Xtensa",
        26 RISCV "riscv" "RISC-V",
    }
}

ids! {
    /// The type of the image, which decides what U-Boot does with it.
    Kind, "image type", {
        0 INVALID "invalid" "Invalid Image",
        1 STANDALONE "standalone" "Standalone Program",
        2 KERNEL "kernel" "Kernel Image",
        3 RAMDISK "ramdisk" "RAMDisk Image",
        4 MULTI "multi" "Multi-File Image",
        5 FIRMWARE "firmware" "Firmware",
        6 SCRIPT "script" "Script",
        7 FILESYSTEM "filesystem" "Filesystem Image",
        8 FLAT_DT "flat_dt" "Flat Device Tree",
        9 KWBIMAGE "kwbimage" "Kirkwood Boot Image",
        10 IMXIMAGE "imximage" "Freescale i.MX Boot Image",
        11 UBLIMAGE "ublimage" "Davinci UBL image",
        12 OMAPIMAGE "omapimage" "TI OMAP SPL With GP CH",
        13 AISIMAGE "aisimage" "Davinci AIS image",
        14 KERNEL_NOLOAD "kernel_noload" "Kernel Image (no loading done)",
        15 PBLIMAGE "pblimage" "Freescale PBL Boot Image",
        16 MXSIMAGE "mxsimage" "Freescale MXS Boot Image",
        17 GPIMAGE "gpimage" "TI Keystone SPL Image",
        18 ATMELIMAGE "atmelimage" "ATMEL ROM-Boot Image",
        19 SOCFPGAIMAGE "socfpgaimage" "Altera SoCFPGA CV/AV preloader",
        20 X86_SETUP "x86_setup" "x86 setup.bin",
        21 LPC32XXIMAGE "lpc32xximage" "LPC32XX Boot Image",
        23 RKIMAGE "rkimage" "Rockchip Boot Image",
        24 RKSD "rksd" "Rockchip SD Boot Image",
        25 RKSPI "rkspi" "Rockchip SPI Boot Image",
        26 ZYNQIMAGE "zynqimage" "Xilinx Zynq Boot Image",
        27 ZYNQMPIMAGE "zynqmpimage" "Xilinx ZynqMP Boot Image",
        28 ZYNQMPBIF "zynqmpbif" "Xilinx ZynqMP Boot Image (bif)",
        29 FPGA "fpga" "FPGA Image",
        30 VYBRIDIMAGE "vybridimage" "Vybrid Boot Image",
        31 TEE "tee" "Trusted Execution Environment Image",
        32 FIRMWARE_IVT "firmware_ivt" "Firmware with HABv4 IVT",
        33 PMMC "pmmc" "TI Power Management Micro-Controller Firmware",
        34 STM32IMAGE "stm32image" "STMicroelectronics STM32 Image",
        35 SOCFPGAIMAGE_V1 "socfpgaimage_v1" "Altera SoCFPGA A10 preloader",
        36 MTK_IMAGE "mtk_image" "MediaTek BootROM loadable Image",
        37 IMX8MIMAGE "imx8mimage" "NXP i.MX8M Boot Image",
        38 IMX8IMAGE "imx8image" "NXP i.MX8 Boot Image",
        39 COPRO "copro" "Coprocessor Image",
        40 SUNXI_EGON "sunxi_egon" "Allwinner eGON Boot Image",
        41 SUNXI_TOC0 "sunxi_toc0" "Allwinner TOC0 Boot Image",
        42 FDT_LEGACY "fdt_legacy" "Flat Device Tree in a legacy image",
        43 SPKGIMAGE "spkgimage" "Renesas SPKG Image",
        44 SFSPL "sfspl" "StarFive SPL Image",
        45 TFA_BL31 "tfa-bl31" "TFA BL31 Image",
        46 STM32IMAGE_V2 "stm32imagev2" "STMicroelectronics STM32 Image V2.0",
        47 AMLIMAGE "amlimage" "Amlogic Boot Image",
    }
}

ids! {
    /// The compression of the data. U-Boot decompresses kernels; it passes a ramdisk on unchanged.
    Comp, "compression", {
        0 NONE "none" "uncompressed",
        1 GZIP "gzip" "gzip compressed",
        2 BZIP2 "bzip2" "bzip2 compressed",
        3 LZMA "lzma" "lzma compressed",
        4 LZO "lzo" "lzo compressed",
        5 LZ4 "lz4" "lz4 compressed",
        6 ZSTD "zstd" "zstd compressed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_whatever_their_case_and_ppc_is_powerpc() {
        assert_eq!("ARM64".parse::<ImageArch>().unwrap(), ImageArch::ARM64);
        assert_eq!("ppc".parse::<ImageArch>().unwrap().name(), Some("powerpc"));
        assert_eq!("u-boot".parse::<Os>().unwrap().0, 17);
    }

    #[test]
    fn an_unknown_name_gets_a_suggestion_and_an_unknown_id_a_number() {
        let error = "ramdsk".parse::<Kind>().unwrap_err().to_string();
        assert_eq!(error, "\"ramdsk\" is no image type: did you mean ramdisk?");
        assert_eq!(Os(13).to_string(), "13");
        assert_eq!(Os(13).description(), "unknown operating system 13");
    }
}
