//! Owns the selection of kernel modules for an initrd: those that boards and recipe need, and their
//! dependencies.
//! Never copies a file.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use anyhow::Result;

use super::kernel::{Kernel, loop_fault, option_of};
use super::module_name::{Name, canonical};
use crate::error::Fault;
use crate::image::index::Image;

/// Something that the initrd's kernel must support.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// A module by name, or with `/*` all below a directory of `kernel/`; `by` is the dependent,
    /// for messages.
    Module { name: String, by: String },
    /// A module that the kernel requests when needed; unless `required`, the kernel may lack it.
    Part {
        name: String,
        by: String,
        required: bool,
    },
    /// A device with this `compatible` string, in the named device tree.
    Device { compatible: String, tree: String },
}

/// The modules of an initrd.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Each with the reason for it.
    pub modules: BTreeMap<Name, String>,
    /// Modules that no device and no file system requests, although they were named: `/init` loads
    /// them.
    pub load_at_start: BTreeSet<Name>,
}

impl Selection {
    /// A line for each module: its name, a tab, and the reason.
    pub fn reasons(&self) -> String {
        let lines = self.modules.iter();
        lines
            .map(|(name, why)| format!("{name}\t{why}\n"))
            .collect()
    }
}

/// Directories below `kernel/` with drivers that a network or a root can depend on. A board's
/// device tree also describes displays, codecs, cameras and sensors, whose drivers the system loads
/// later.
const ON_THE_WAY_TO_A_ROOT: &[&str] = &[
    "arch/",
    "drivers/ata/",
    "drivers/base/",
    "drivers/block/",
    "drivers/bus/",
    "drivers/clk/",
    "drivers/clocksource/",
    "drivers/dma/",
    "drivers/extcon/",
    "drivers/firmware/",
    "drivers/gpio/",
    "drivers/hwspinlock/",
    "drivers/i2c/busses/",
    "drivers/interconnect/",
    "drivers/iommu/",
    "drivers/irqchip/",
    "drivers/mailbox/",
    "drivers/memory/",
    "drivers/mfd/",
    "drivers/misc/",
    "drivers/mmc/",
    "drivers/mux/",
    "drivers/net/ethernet/",
    "drivers/net/mdio/",
    "drivers/net/pcs/",
    "drivers/net/phy/",
    "drivers/net/usb/",
    "drivers/nvme/",
    "drivers/nvmem/",
    "drivers/pci/",
    "drivers/phy/",
    "drivers/pinctrl/",
    "drivers/pmdomain/",
    "drivers/power/reset/",
    "drivers/regulator/",
    "drivers/remoteproc/",
    "drivers/reset/",
    "drivers/rpmsg/",
    "drivers/soc/",
    "drivers/spi/",
    "drivers/spmi/",
    "drivers/ufs/",
    "drivers/usb/chipidea/",
    "drivers/usb/common/",
    "drivers/usb/core/",
    "drivers/usb/dwc2/",
    "drivers/usb/dwc3/",
    "drivers/usb/host/",
    "drivers/usb/misc/",
    "drivers/usb/musb/",
    "drivers/usb/phy/",
    "drivers/virtio/",
    // On many chips a reboot is done by the watchdog.
    "drivers/watchdog/",
];

/// Selects the modules for all needs.
///
/// # Errors
/// If a named module is neither present nor built in, if `modules.dep` names a missing one, or if
/// modules depend on each other in a cycle.
pub fn select(image: &Image, kernel: &Kernel, wishes: &[Wish]) -> Result<Selection> {
    let mut selection = Selection::default();
    let mut queue: VecDeque<(Name, String)> = VecDeque::new();
    for wish in wishes {
        match wish {
            Wish::Module { name, by } => {
                named(image, kernel, name, by, &mut selection, &mut queue)?
            }
            Wish::Part { name, by, required } => {
                if kernel.module(name).is_some() {
                    queue.push_back((canonical(name), by.clone()));
                } else if *required && !kernel.is_builtin(name) {
                    return Err(no_module(image, kernel, name, by));
                }
            }
            Wish::Device { compatible, tree } => {
                for name in kernel.compatible(compatible) {
                    let path = kernel.module(&name).map_or("", |module| &module.path);
                    let path = path.strip_prefix("kernel/").unwrap_or(path);
                    if ON_THE_WAY_TO_A_ROOT
                        .iter()
                        .any(|start| path.starts_with(start))
                    {
                        queue.push_back((name, format!("drives {compatible} in {tree}")));
                    }
                }
            }
        }
    }
    while let Some((name, why)) = queue.pop_front() {
        if selection.modules.contains_key(&name) || kernel.is_builtin(&name) {
            continue;
        }
        let Some(module) = kernel.module(&name) else {
            return Err(Fault::input(format!(
                "the kernel {} has no module {name}, although modules.dep says so ({why})",
                kernel.release
            ))
            .remedy("run depmod in the image, or install the kernel package again")
            .into());
        };
        for needed in &module.dependencies {
            queue.push_back((needed.clone(), format!("needed by {name}")));
        }
        if let Some(soft) = kernel.soft_dependencies(&name) {
            for alias in soft.pre.iter().chain(&soft.post) {
                for found in kernel.resolve(alias) {
                    queue.push_back((found, format!("soft dependency of {name}")));
                }
            }
        }
        selection.modules.insert(name, why);
    }
    refuse_loops(kernel, &selection)?;
    Ok(selection)
}

/// Adds the modules that `name` stands for to the queue.
fn named(
    image: &Image,
    kernel: &Kernel,
    name: &str,
    by: &str,
    selection: &mut Selection,
    queue: &mut VecDeque<(Name, String)>,
) -> Result<()> {
    if let Some(directory) = name.strip_suffix('*') {
        let prefix = format!("kernel/{directory}");
        let before = queue.len();
        let below = kernel
            .modules()
            .filter(|(_, module)| module.path.starts_with(&prefix));
        queue.extend(below.map(|(found, _)| (found.clone(), format!("{name}, for {by}"))));
        if queue.len() == before && !kernel.has_builtin_below(directory) {
            return Err(Fault::input(format!(
                "the kernel {} has no module below {directory}, which {by} asks for",
                kernel.release
            ))
            .remedy(
                "correct the pattern: it is a directory below kernel/, such as drivers/net/phy/*",
            )
            .into());
        }
        return Ok(());
    }
    if kernel.is_builtin(name) {
        return Ok(());
    }
    let name = canonical(name);
    if kernel.module(&name).is_none() {
        return Err(no_module(image, kernel, &name, by));
    }
    if kernel.aliases_of(&BTreeSet::from([&name])).is_empty() {
        selection.load_at_start.insert(name.clone());
    }
    queue.push_back((name, format!("named by {by}")));
    Ok(())
}

fn no_module(image: &Image, kernel: &Kernel, name: &str, by: &str) -> anyhow::Error {
    let guess = format!("CONFIG_{}", option_of(name));
    let option = match kernel.config_hint(image, name) {
        Some(line) => format!("its configuration says `{line}`"),
        None if kernel.configuration(image).is_none() => format!(
            "look for {guess} or the like in its configuration; the image has no boot/config-{}",
            kernel.release
        ),
        None => format!("its configuration has no option {guess}"),
    };
    Fault::input(format!(
        "the kernel {} has no module {name}, which {by} asks for: {option}",
        kernel.release
    ))
    .remedy("choose a kernel that has this driver, or correct the name")
    .into()
}

/// In `modules.dep` a cycle appears as two modules that list each other.
fn refuse_loops(kernel: &Kernel, selection: &Selection) -> Result<()> {
    let needs = |name: &Name, other: &Name| {
        kernel
            .module(name)
            .is_some_and(|module| module.dependencies.contains(other))
    };
    for name in selection.modules.keys() {
        let dependencies = kernel
            .module(name)
            .map_or(&[][..], |module| &module.dependencies);
        for other in dependencies {
            if other == name || needs(other, name) {
                return Err(loop_fault(&[name.clone(), other.clone()]));
            }
        }
    }
    Ok(())
}
