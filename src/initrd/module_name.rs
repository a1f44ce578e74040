//! Owns how a kernel module is called: by the kernel, by its file, and by a recipe.
//! Never looks at a file.

/// A module's name as the kernel uses it: without `.ko`, with `_` for `-`.
pub type Name = String;

/// The name of the module in a file: `kernel/drivers/net/dwmac-sun8i.ko.xz` is `dwmac_sun8i`.
pub fn name_of(path: &str) -> Name {
    let file = path.rsplit('/').next().unwrap_or(path);
    canonical(file.split_once(".ko").map_or(file, |(stem, _)| stem))
}

/// Normalises a module's name: `-` becomes `_`; a suffix `.ko` is dropped.
pub fn canonical(name: &str) -> Name {
    name.strip_suffix(".ko").unwrap_or(name).replace('-', "_")
}
