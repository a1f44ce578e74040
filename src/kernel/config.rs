//! Owns reading a kernel's configuration (`.config`). Never decides what it must have.

/// The value of an option in the text of a `.config`: `y`, `m`, or a number or string as it stands; `None` if it is not
/// set.
pub fn value<'a>(text: &'a str, option: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once('=')?;
        (name == option).then_some(value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_is_found_by_its_whole_name() {
        let text = "# CONFIG_NFS is not set\nCONFIG_NFS_FS=m\nCONFIG_X=\"a b\"\n";
        assert_eq!(value(text, "CONFIG_NFS_FS"), Some("m"));
        assert_eq!(value(text, "CONFIG_X"), Some("\"a b\""));
        assert_eq!(value(text, "CONFIG_NFS"), None);
    }
}
