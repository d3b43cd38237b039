//! The host of the mail server: this one, or one behind ssh.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

/// Runs programs where the mail server is.
#[derive(Debug)]
pub(super) struct Host {
    ssh: Option<String>,
}

impl Host {
    pub(super) fn new(ssh: Option<&str>) -> Self {
        Self { ssh: ssh.map(str::to_owned) }
    }

    /// Its name, for people.
    pub(super) fn name(&self) -> String {
        self.ssh.clone().unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned())
    }

    /// The output of the command `words`; an error where it fails.
    pub(super) fn run(&self, words: &[&str]) -> anyhow::Result<String> {
        let (text, success, complaint) = self.attempt(words)?;
        if !success {
            bail!("{}: {}", words.join(" "), complaint.trim());
        }
        Ok(text)
    }

    /// The output of the command `words`, whether it succeeded, and its complaints.
    pub(super) fn attempt(&self, words: &[&str]) -> anyhow::Result<(String, bool, String)> {
        let mut command = match &self.ssh {
            None => {
                let mut command = Command::new(words[0]);
                command.args(&words[1..]);
                // Where mail servers have their programs, whoever asks.
                let path = std::env::var("PATH").unwrap_or_default();
                command.env("PATH", format!("{path}:/usr/sbin:/usr/local/sbin:/sbin"));
                command
            }
            Some(host) => {
                let line: Vec<_> = words.iter().map(|word| quoted(word)).collect();
                let mut command = Command::new("ssh");
                // The host can't be taken for an option.
                command.args(["-o", "BatchMode=yes", "-o", "ConnectTimeout=15", "--", host]);
                command.arg(format!("PATH=$PATH:/usr/sbin:/usr/local/sbin:/sbin LC_ALL=C {}", line.join(" ")));
                command
            }
        };
        let output = command.env("LC_ALL", "C").stdin(Stdio::null()).output().with_context(|| {
            let program = if self.ssh.is_some() { "ssh" } else { words[0] };
            format!("{program} can't be run; is the mail server on another host? --ssh HOST asks it there")
        })?;
        let (text, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        // 255 is ssh's own.
        if self.ssh.is_some() && output.status.code() == Some(255) {
            bail!("ssh: {}", complaint.trim());
        }
        Ok((text.into_owned(), output.status.success(), complaint.into_owned()))
    }

    /// The text of a file.
    pub(super) fn read(&self, path: &Path) -> anyhow::Result<String> {
        self.run(&["cat", "--", &path.to_string_lossy()])
    }
}

/// `word` as a shell takes it for one.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_stays_one() {
        for word in ["a b", "it's", "$(x)", "", "*;|&"] {
            let output = Command::new("sh").arg("-c").arg(format!("printf %s {}", quoted(word))).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
        }
    }

    #[test]
    fn a_program_that_fails_or_is_missing_is_named() {
        let host = Host::new(None);
        assert_eq!(host.run(&["printf", "x"]).unwrap(), "x");
        assert!(host.run(&["sh", "-c", "echo no >&2; exit 3"]).unwrap_err().to_string().ends_with(": no"));
        assert!(format!("{:#}", host.run(&["/nowhere"]).unwrap_err()).contains("--ssh HOST"));
    }
}
