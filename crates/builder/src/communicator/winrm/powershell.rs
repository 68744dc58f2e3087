//! PowerShell as command lines of a machine with Windows. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

/// `cmd.exe` takes no longer lines.
pub const MAX_LINE: usize = 8191;

/// The command line that runs a script: whatever it holds, no shell reads it.
pub fn encoded(script: &str) -> String {
    let bytes: Vec<u8> = script.encode_utf16().flat_map(u16::to_le_bytes).collect();
    format!(
        "powershell.exe -NoProfile -NonInteractive -ExecutionPolicy Bypass -OutputFormat Text -EncodedCommand {}",
        BASE64.encode(bytes)
    )
}

/// A literal that means exactly this text. PowerShell takes typographic quotes for quotes.
pub fn quoted(text: &str) -> String {
    let mut literal = "'".to_owned();
    for c in text.chars() {
        literal.push(c);
        if matches!(c, '\'' | '\u{2018}'..='\u{201b}') {
            literal.push(c);
        }
    }
    literal + "'"
}

/// A script that finds these texts in variables.
pub fn with(variables: &[(&str, &str)], script: &str) -> String {
    let set: String = variables.iter().map(|(name, value)| format!("${name} = {}\n", quoted(value))).collect();
    set + script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals() {
        assert_eq!(quoted(r"C:\a b\$x"), r"'C:\a b\$x'");
        assert_eq!(quoted("it's ‘so’"), "'it''s ‘‘so’’'");
    }

    #[test]
    fn command_lines() {
        let line = encoded(&with(&[("path", "x")], "exit 0"));
        let (_, text) = line.rsplit_once(' ').unwrap();
        let bytes = BASE64.decode(text).unwrap();
        let units: Vec<u16> = bytes.chunks(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect();
        assert_eq!(String::from_utf16(&units).unwrap(), "$path = 'x'\nexit 0");
    }
}
