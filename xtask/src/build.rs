//! Both planes, the tests, and the edge commands that need them.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use crate::{object, root, setup, step, target};

/// The variable that names the eBPF object to the user plane's build script.
pub(crate) const OBJECT: &str = "SMTP_GUARD_EBPF_OBJECT";

/// Builds both planes. Returns the binary.
pub(crate) fn build(release: bool) -> anyhow::Result<PathBuf> {
    let toolchain = setup::build()?;
    let object = object::build(&toolchain)?;
    let mut command = Command::new(cargo());
    command.current_dir(root()).env(OBJECT, &object).args(["build", "--locked", "--package", "smtp-guard"]);
    if release {
        command.arg("--release");
    }
    step::run("build", "building the user plane", &mut command)?;
    Ok(target().join(if release { "release" } else { "debug" }).join("smtp-guard"))
}

/// The tests, built, and what they need of the workspace's own programs.
pub(crate) struct Tests {
    /// The guard.
    pub(crate) guard: PathBuf,
    pub(crate) binaries: Vec<Binary>,
}

/// A binary of tests.
pub(crate) struct Binary {
    /// Its package's folder, where it expects to be started.
    pub(crate) folder: PathBuf,
    /// Its package and its own name: `smtp-guard-tests: whole`.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
}

/// Builds all tests, and the guard with the eBPF object that [`object::build`] left. One command for the whole workspace: were
/// each package built by itself, its dependencies would have features of their own, and the guard be built again for each.
pub(crate) fn tests() -> anyhow::Result<Tests> {
    let mut command = workspace(&["test", "--locked", "--workspace", "--no-run"]);
    step::run("build-tests", "building the guard and its tests", &mut command)?;
    // That was all; now only where they are.
    let output = command.args(["--message-format", "json"]).stdout(Stdio::piped()).stderr(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut binaries: Vec<_> = text.lines().filter_map(binary).collect();
    binaries.sort_by(|one, other| one.name.cmp(&other.name));
    if !output.status.success() || binaries.is_empty() {
        bail!("cargo doesn't say where the tests are ({})", output.status);
    }
    Ok(Tests { guard: target().join("debug/smtp-guard"), binaries })
}

/// A line of cargo's messages, if it tells of a binary of tests.
fn binary(line: &str) -> Option<Binary> {
    let text = |key: &str| line.split_once(&format!("\"{key}\":\""))?.1.split('"').next();
    let (_, profile) = line.split_once("\"profile\":{")?;
    if !profile.split('}').next()?.contains("\"test\":true") {
        return None;
    }
    let folder = Path::new(text("manifest_path")?).parent()?.to_owned();
    // `path+file:///a/smtp-guard#0.1.0`, `path+file:///a/tests#smtp-guard-tests@0.1.0`
    let package =
        text("package_id")?.rsplit_once('#').map_or("", |(_, id)| id.split_once('@').map_or("", |(name, _)| name));
    let package = if package.is_empty() { folder.file_name()?.to_str()? } else { package };
    let (_, target) = line.split_once("\"target\":{")?;
    let name = target.split_once("\"name\":\"")?.1.split('"').next()?;
    Some(Binary { name: format!("{package}: {name}"), path: text("executable")?.into(), folder })
}

/// cargo in the workspace, with the object that [`object::build`] left.
pub(crate) fn workspace(arguments: &[&str]) -> Command {
    let mut command = Command::new(cargo());
    command.current_dir(root()).env(OBJECT, object_path()).env("CARGO_TARGET_DIR", target()).args(arguments);
    command
}

/// Where [`build`] leaves the object.
pub(crate) fn object_path() -> PathBuf {
    target().join("bpf/bpfel-unknown-none/release/smtp-guard-ebpf")
}

/// The cargo that runs us.
pub(crate) fn cargo() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Writes what comes from tables in the code; the test that holds it against them writes it where it is told to.
pub(crate) fn docs() -> anyhow::Result<()> {
    let mut command = workspace(&["test", "--locked", "--package", "smtp-guard", "--lib", "written::"]);
    command.env("SMTP_GUARD_WRITE_DOCS", "1");
    if !object_path().exists() {
        command.env_remove(OBJECT);
    }
    step::run("docs", "writing packaging/smtp-guard.toml, docs/configuration.md and docs/metrics.md", &mut command)
}

/// `smtp-guard edge load` or `unload`, with a binary of this tree.
pub(crate) fn edge(command: &str, arguments: &[String]) -> anyhow::Result<()> {
    let binary = build(true)?;
    let status = Command::new(&binary)
        .args(["edge", command])
        .args(arguments)
        .status()
        .with_context(|| format!("cannot start {}", binary.display()))?;
    if !status.success() {
        bail!("smtp-guard edge {command} failed ({status})");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binaries_are_found_in_cargos_messages() {
        let line = |id: &str, test: bool| {
            format!(
                r#"{{"reason":"compiler-artifact","package_id":"path+file:///a/{id}","manifest_path":"/a/tests/Cargo.toml","target":{{"kind":["test"],"crate_types":["bin"],"name":"whole","test":true}},"profile":{{"opt_level":"0","test":{test}}},"features":[],"filenames":["/a/whole-1"],"executable":"/a/whole-1","fresh":true}}"#
            )
        };
        let found = binary(&line("tests#smtp-guard-tests@0.1.0", true)).unwrap();
        assert_eq!((found.name.as_str(), found.path.to_str()), ("smtp-guard-tests: whole", Some("/a/whole-1")));
        assert_eq!(found.folder, Path::new("/a/tests"));
        assert_eq!(binary(&line("tests#0.1.0", true)).unwrap().name, "tests: whole");
        assert!(binary(&line("tests#0.1.0", false)).is_none(), "a program");
        assert!(binary(r#"{"reason":"build-finished","success":true}"#).is_none());
    }
}
