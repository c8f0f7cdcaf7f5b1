//! Words that arrive as they were sent, through the shells and argument parsers that lie between us and a program on a host.
//!
//! Pure text; which of them is needed is [`crate::shell`]'s and [`crate::machine`]'s business.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// One word for a POSIX shell, and for csh and fish too.
pub fn posix(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A string literal of PowerShell in which nothing is expanded. It ends at any of the quotation marks that PowerShell takes for a
/// straight one.
pub fn powershell(text: &str) -> String {
    let mut literal = String::from("'");
    for c in text.chars() {
        if matches!(c, '\'' | '\u{2018}' | '\u{2019}' | '\u{201a}' | '\u{201b}') {
            literal.push(c);
        }
        literal.push(c);
    }
    literal.push('\'');
    literal
}

/// The arguments of a Windows program as one command line, so that `CommandLineToArgvW` gives them back: a backslash means itself
/// except before a quotation mark.
pub fn windows_arguments<'a>(arguments: impl IntoIterator<Item = &'a str>) -> String {
    let mut line = String::new();
    for argument in arguments {
        if !line.is_empty() {
            line.push(' ');
        }
        if !argument.is_empty() && !argument.contains([' ', '\t', '\n', '\u{b}', '"']) {
            line.push_str(argument);
            continue;
        }
        line.push('"');
        let mut backslashes = 0;
        for c in argument.chars() {
            match c {
                '\\' => backslashes += 1,
                '"' => {
                    line.extend(std::iter::repeat_n('\\', backslashes * 2 + 1));
                    line.push('"');
                    backslashes = 0;
                }
                c => {
                    line.extend(std::iter::repeat_n('\\', backslashes));
                    line.push(c);
                    backslashes = 0;
                }
            }
        }
        line.extend(std::iter::repeat_n('\\', backslashes * 2));
        line.push('"');
    }
    line
}

/// A command line of `cmd.exe`: quoted for the program first, then every character that cmd.exe would act upon escaped, quotation
/// marks too, so that it never believes itself within quotes. `%NAME%` is expanded even so, unless a caret parts the name.
pub fn cmd<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let mut line = String::new();
    for c in windows_arguments(words).chars() {
        if "()%!^\"<>&|".contains(c) {
            line.push('^');
        }
        line.push(c);
    }
    line
}

/// The line that has PowerShell run a script, made of characters that mean themselves in cmd.exe, PowerShell and POSIX shells.
pub fn encoded_command(script: &str) -> String {
    let utf16: Vec<u8> = script.encode_utf16().flat_map(u16::to_le_bytes).collect();
    format!(
        "powershell.exe -NoLogo -NoProfile -NonInteractive -EncodedCommand {}",
        STANDARD.encode(utf16)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_posix_shells() {
        for (word, quoted) in [
            ("plain-1.2/x", "plain-1.2/x"),
            ("", "''"),
            ("/root/VirtualBox VMs", "'/root/VirtualBox VMs'"),
            ("it's", r"'it'\''s'"),
            ("$(x)`y`\n", "'$(x)`y`\n'"),
            ("~", "'~'"),
        ] {
            assert_eq!(posix(word), quoted);
        }
    }

    #[test]
    fn a_posix_shell_gives_back_what_was_quoted() {
        for word in ["a b", "it's \"$HOME\" `id` \\ * ? ! #", "-n", "", "\t\n"] {
            let output = std::process::Command::new("sh")
                .args(["-c", &format!("printf %s {}", posix(word))])
                .output()
                .unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
        }
    }

    #[test]
    fn literals_of_powershell() {
        for (text, quoted) in [
            ("a b", "'a b'"),
            ("it's $env:X", "'it''s $env:X'"),
            ("“‘’”", "'“‘‘’’”'"),
            ("", "''"),
        ] {
            assert_eq!(powershell(text), quoted);
        }
    }

    #[test]
    fn arguments_of_windows_programs() {
        for (arguments, line) in [
            (vec!["list", "vms"], "list vms"),
            (vec!["a b", ""], r#""a b" """#),
            (vec![r"C:\Program Files\x\"], r#""C:\Program Files\x\\""#),
            (vec![r"C:\x\"], r"C:\x\"),
            (vec![r#"say "hi""#], r#""say \"hi\"""#),
            (vec![r#"\\"x"#], r#""\\\\\"x""#),
        ] {
            assert_eq!(windows_arguments(arguments), line);
        }
    }

    #[test]
    fn lines_of_cmd_exe() {
        for (words, line) in [
            (vec!["list", "vms"], "list vms"),
            (vec!["100%", "a&b"], "100^% a^&b"),
            (
                vec![r"C:\Program Files\V.exe", "x|y"],
                r#"^"C:\Program Files\V.exe^" x^|y"#,
            ),
            (vec![r#"a "b" (c)"#], r#"^"a \^"b\^" ^(c^)^""#),
        ] {
            assert_eq!(cmd(words), line);
        }
    }

    #[test]
    fn a_script_travels_to_powershell_as_utf16_in_base64() {
        assert_eq!(
            encoded_command("exit 3 # ü"),
            "powershell.exe -NoLogo -NoProfile -NonInteractive -EncodedCommand ZQB4AGkAdAAgADMAIAAjACAA/AA="
        );
    }
}
