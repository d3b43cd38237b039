//! A kernel's packages, fetched by apt-get and unpacked. Nothing is installed, and the machine's own lists stay as they are.
//!
//! A kernel of another release of Debian has lists in a folder of its own; its mirror is the one that this machine uses.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use super::Kernel;
use crate::{setup, step, target};

/// Modules that the loop needs, in the order in which they are loaded. What a kernel has built in, it has no file for.
const MODULES: [&str; 4] = ["veth", "inet_diag", "tcp_diag", "tun"];
/// Signs the lists of all releases.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// An unpacked kernel.
pub(super) struct Unpacked {
    pub(super) image: PathBuf,
    /// Those of [`MODULES`] that are files, decompressed, in their order.
    pub(super) modules: Vec<PathBuf>,
    /// As `uname -r` says it.
    pub(super) release: String,
}

/// Unpacks `kernel`, unless that was done before: whoever wants a newer one removes the folder.
pub(super) fn unpack(kernel: &Kernel) -> anyhow::Result<Unpacked> {
    let name = format!("{}-{}", kernel.suite.unwrap_or("own"), kernel.package);
    let folder = target().join("tools/kernels").join(&name);
    if let Ok(found) = find(&folder) {
        return Ok(found);
    }
    let fresh = folder.with_extension("new");
    for old in [&folder, &fresh] {
        if old.exists() {
            fs::remove_dir_all(old).with_context(|| format!("cannot remove {}", old.display()))?;
        }
    }
    fs::create_dir_all(&fresh).with_context(|| format!("cannot create {}", fresh.display()))?;
    let apt = Apt::of(kernel.suite, &fresh)?;
    let download = || -> anyhow::Result<()> {
        let packages = apt.closure(kernel.package)?;
        let mut download = apt.command("apt-get");
        download.args(["download", "--quiet"]).args(&packages).current_dir(&fresh);
        let what = format!("downloading {}", packages.join(", "));
        step::run(&format!("download-{name}"), &what, &mut download)
    };
    let downloaded = download();
    if downloaded.is_err() && kernel.suite.is_none() {
        // The machine may have no lists, or old ones that name versions which are gone.
        setup::refresh()?;
        download()?;
    } else {
        downloaded?;
    }
    for archive in files(&fresh)?.into_iter().filter(|path| path.extension().is_some_and(|end| end == "deb")) {
        let mut extract = Command::new("dpkg-deb");
        extract.arg("--extract").arg(&archive).arg(&fresh);
        step::run(&format!("unpack-{name}"), &format!("unpacking {}", archive.display()), &mut extract)?;
        fs::remove_file(archive)?;
    }
    keep_only_what_is_needed(&fresh)?;
    fs::rename(&fresh, &folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let found = find(&folder)?;
    if !found.release.starts_with(kernel.version) {
        bail!("{} is Linux {}, and {} was expected", kernel.package, found.release, kernel.version);
    }
    Ok(found)
}

/// Where packages come from.
struct Apt {
    /// What makes apt use lists of its own; empty: this machine's.
    options: Vec<String>,
}

impl Apt {
    fn of(suite: Option<&str>, folder: &Path) -> anyhow::Result<Self> {
        let Some(suite) = suite else { return Ok(Self { options: Vec::new() }) };
        let state = folder.join("apt");
        for part in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(state.join(part))?;
        }
        let sources = state.join("sources.list");
        fs::write(&sources, format!("deb [signed-by={KEYRING}] {} {suite} main\n", setup::own_mirror()?.1))?;
        let option = |name: &str, value: &Path| ["-o".to_owned(), format!("{name}={}", value.display())];
        let options = [
            option("Dir::Etc::SourceList", &sources),
            option("Dir::Etc::SourceParts", Path::new("-")),
            option("Dir::State::Lists", &state.join("lists")),
            option("Dir::Cache", &state),
            option("Acquire::Languages", Path::new("none")),
        ];
        let apt = Self { options: options.concat() };
        let mut update = apt.command("apt-get");
        update.args(["update", "--quiet"]);
        step::run(&format!("lists-{suite}"), &format!("fetching the list of packages of {suite}"), &mut update)?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(&self.options);
        command
    }

    /// The packages that `package` leads to and that have a kernel's image or modules in them.
    fn closure(&self, package: &str) -> anyhow::Result<Vec<String>> {
        let mut found: Vec<String> = vec![package.to_owned()];
        let mut looked = 0;
        while let Some(package) = found.get(looked).cloned() {
            looked += 1;
            let shown = self.command("apt-cache").args(["show", "--no-all-versions", &package]).output()?;
            if !shown.status.success() {
                bail!("apt knows no package {package}: apt-get update may help");
            }
            for name in depends(&String::from_utf8_lossy(&shown.stdout)) {
                let is_kernel =
                    ["linux-image-", "linux-binary-", "linux-modules-"].iter().any(|kind| name.starts_with(kind));
                if is_kernel && !found.contains(&name) {
                    found.push(name);
                }
            }
        }
        Ok(found)
    }
}

/// The packages that the fields `Depends` of `shown` begin their alternatives with.
fn depends(shown: &str) -> Vec<String> {
    let fields = shown.lines().filter_map(|line| line.strip_prefix("Depends: "));
    let names = fields.flat_map(|field| field.split(", ")).filter_map(|part| part.split([' ', ':', '|']).next());
    names.map(str::to_owned).collect()
}

/// The image and the modules below `folder`.
fn find(folder: &Path) -> anyhow::Result<Unpacked> {
    let boot = files(&folder.join("boot"))?;
    let image = boot.into_iter().find_map(|path| {
        let release = path.file_name()?.to_str()?.strip_prefix("vmlinuz-")?.to_owned();
        Some((path, release))
    });
    let (image, release) = image.with_context(|| format!("there is no kernel below {}", folder.display()))?;
    let modules = MODULES.iter().map(|name| folder.join(format!("modules/{name}.ko"))).filter(|path| path.exists());
    Ok(Unpacked { image, modules: modules.collect(), release })
}

/// Puts [`MODULES`], decompressed, into a folder of their own, and removes all others.
fn keep_only_what_is_needed(folder: &Path) -> anyhow::Result<()> {
    let kept = folder.join("modules");
    fs::create_dir_all(&kept)?;
    let trees = ["lib/modules", "usr/lib/modules"].map(|path| folder.join(path));
    for tree in trees.iter().filter(|tree| tree.is_dir()) {
        for path in walk(tree)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let Some((name, packed)) = name.split_once(".ko") else { continue };
            let file = kept.join(format!("{name}.ko"));
            let unpacker = match packed {
                _ if !MODULES.contains(&name) => continue,
                "" => {
                    fs::copy(&path, file)?;
                    continue;
                }
                ".xz" => "xz",
                ".zst" => "zstd",
                other => bail!("{}: nothing is known that unpacks {other}", path.display()),
            };
            let status = Command::new(unpacker).args(["-dc"]).arg(&path).stdout(fs::File::create(file)?).status()?;
            if !status.success() {
                bail!("{unpacker} can't unpack {}", path.display());
            }
        }
    }
    // Newer packages have the image beside the modules.
    let boot = folder.join("boot");
    fs::create_dir_all(&boot)?;
    for release in
        trees.iter().filter(|tree| tree.is_dir()).map(|tree| files(tree)).collect::<Result<Vec<_>, _>>()?.concat()
    {
        let image = release.join("vmlinuz");
        if image.is_file() {
            fs::copy(&image, boot.join(format!("vmlinuz-{}", release.file_name().unwrap_or_default().display())))?;
        }
    }
    for rest in ["lib", "usr", "etc", "apt"].map(|part| folder.join(part)) {
        if rest.exists() {
            fs::remove_dir_all(&rest).with_context(|| format!("cannot remove {}", rest.display()))?;
        }
    }
    Ok(())
}

fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    Ok(entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?)
}

/// All files below `folder`.
fn walk(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let (mut found, mut left) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = left.pop() {
        for path in files(&folder)? {
            match fs::symlink_metadata(&path)? {
                metadata if metadata.is_dir() => left.push(path),
                metadata if metadata.is_file() => found.push(path),
                _ => {}
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_package_depends_on_is_read() {
        let shown =
            "Package: a\nDepends: linux-base-x (= 7), linux-image-7 (= 7.2), kmod | other, x:any\nRecommends: y\n";
        assert_eq!(depends(shown), ["linux-base-x", "linux-image-7", "kmod", "x"]);
        assert_eq!(depends("Package: a\n"), [""; 0]);
    }
}
