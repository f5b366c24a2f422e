//! `sendflowr plugin pull` and `push`: transfer plugins from and to a registry.

use std::{
    fs::{self, Permissions},
    io::{ErrorKind, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail};
use clap::Args;
use host::plugin::{
    Limits, LockWriter, MOST_SIGNATURE_BYTES, Pin, Plugin, PluginLoader, PluginLock, PluginsConfig,
    signature_path,
};
use tempfile::NamedTempFile;

use super::{
    files::{examine, plugin_files},
    pin,
};
use crate::{
    cli::Global,
    oci::{self, Client, Component, Credentials, Operation, Reference},
    output,
};

/// How a registry is reached.
#[derive(Debug, Args)]
pub(crate) struct RegistryArgs {
    /// Use plain HTTP for a registry that is not on this machine.
    #[arg(long)]
    plain_http: bool,
    /// Time limit for the whole transfer, in seconds.
    // Enough for a Python component of 18 MB at 1 Mbit/s.
    #[arg(long, value_name = "SECONDS", default_value_t = 180, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
}

/// What to pull, and where to put it.
#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// Artifact: `oci://registry/repository:tag`, with or without `@sha256:…`.
    source: Reference,
    /// Folder to put it into [default: the plugin folder]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Write its digest and origin to the lock file.
    #[arg(long)]
    pin: bool,
    /// Replace a plugin for the same provider even if the lock file does not say that it came from the same repository.
    #[arg(long)]
    replace: bool,
    /// Lock file [default: `host.plugins.lock`; with `--out`, `plugins.lock` in that folder]
    #[arg(long, requires = "pin")]
    lock: Option<PathBuf>,
    #[command(flatten)]
    registry: RegistryArgs,
}

/// What to push, and where to.
#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    /// Compiled plugin. If `FILE.minisig` exists beside it, it is pushed too.
    file: PathBuf,
    /// Reference to push to: `oci://registry/repository:tag`.
    target: Reference,
    #[command(flatten)]
    registry: RegistryArgs,
}

/// Pulls a plugin, checks it as `plugin check` does, and puts it into the folder.
///
/// # Errors
/// Fails if the registry fails or sends false data; if the host would not serve the plugin, or it would replace one from
/// elsewhere, or another file in the folder is for the same provider; or if the lock file or the folder cannot be used. The
/// folder is then left as it was.
pub(crate) async fn pull(global: Global, args: PullArgs) -> anyhow::Result<ExitCode> {
    let config = global.plugins_config()?;
    let mut client = connect(&global, &args.source, Operation::Pull, &args.registry)?;
    let limit = config.limits.file_bytes;
    let reference = args.source.manifest();
    let pulling = async {
        let component = oci::pull(&mut client, &reference, limit).await?;
        let signature = oci::signature_of(&mut client, &component.manifest)
            .await
            .context("its signature")?;
        anyhow::Ok((component, signature))
    };
    let (component, signature) = within(&args.registry, pulling)
        .await
        .with_context(|| format!("cannot pull `{}`", args.source))?;
    let source = args.source.at(&component.manifest).to_string();
    place(&config, args, component, signature, source).await
}

/// Checks what was pulled, and puts it into the folder.
async fn place(
    config: &PluginsConfig,
    args: PullArgs,
    component: Component,
    signature: Option<String>,
    source: String,
) -> anyhow::Result<ExitCode> {
    require_trust(config, &component.bytes, signature.as_deref(), &source)?;
    let lock = match (&args.lock, &args.out) {
        (Some(lock), _) => lock.clone(),
        (None, Some(folder)) => folder.join("plugins.lock"),
        (None, None) => config.lock.clone(),
    };
    let folder = args.out.clone().unwrap_or_else(|| config.folder.clone());
    fs::create_dir_all(&folder).with_context(|| format!("cannot create `{}`", folder.display()))?;
    // Held until the file is in place: a command that pins the whole folder in between would unpin what is not there yet.
    let writer = match args.pin {
        true => Some(pin::writer(&lock).await?),
        false => None,
    };
    let lock_now = PluginLock::read(&lock)?;
    // Under a name that the host does not look at, until it has been checked.
    let unchecked = beside(&folder, &component.bytes)?;
    let (plugin, examination) = examine(unchecked.path(), &config.limits)
        .await
        .with_context(|| format!("the plugin from `{source}` is refused"))?;
    let descriptor = plugin.descriptor();
    let file = folder.join(format!("{}.wasm", descriptor.slug));
    refuse_replacement(
        config,
        &args,
        &file,
        &component.bytes,
        &plugin,
        lock_now.as_ref(),
        &source,
    )
    .await?;
    // On a full disk this fails, before anything is changed.
    let signature_file = match &signature {
        Some(signature) => Some(beside(&folder, signature.as_bytes())?),
        None => None,
    };
    // Before the plugin is in place: if the lock file cannot be written, everything is left as it was.
    let changes = match &writer {
        Some(writer) => pin::one(writer, &file, &plugin, &examination, Some(source.clone()))?,
        None => Vec::new(),
    };
    if let Err(error) = install(unchecked, signature_file, &file) {
        if let Some(writer) = &writer {
            restore(writer, lock_now.as_ref()).with_context(|| {
                format!("{error:#}; and `{}` still pins what is not there", lock.display())
            })?;
        }
        return Err(error);
    }
    changes.iter().for_each(|change| output::line(change));
    let signed = match (signature.is_some(), config.trusted_keys.is_empty()) {
        (false, _) => "not signed",
        (true, false) => "signed by a trusted key",
        (true, true) => "with a signature, which was not checked because no keys are trusted",
    };
    output::line(&format!(
        "`{}` is {} {} from `{source}`: sha256 {}, {signed}",
        file.display(),
        descriptor.slug,
        descriptor.version,
        plugin.digest()
    ));
    if writer.is_none()
        && let Some(lock_now) = lock_now
    {
        tell_unless_pinned(&lock_now, &lock, &file, &plugin);
    }
    Ok(ExitCode::SUCCESS)
}

/// Refuses to put a plugin in place of one from elsewhere, or beside another file for the same provider.
async fn refuse_replacement(
    config: &PluginsConfig,
    args: &PullArgs,
    file: &Path,
    bytes: &[u8],
    plugin: &Plugin,
    lock: Option<&PluginLock>,
    source: &str,
) -> anyhow::Result<()> {
    let descriptor = plugin.descriptor();
    let pin = lock.and_then(|lock| lock.get(&descriptor.slug));
    if !args.replace
        && is_other(file, bytes, pin, plugin.digest())?
        && !pin.is_some_and(|pin| is_of(pin, &args.source))
    {
        let before = match pin.and_then(|pin| pin.source.as_deref()) {
            Some(source) => format!("`{source}`"),
            None => "an unknown origin".to_owned(),
        };
        bail!(
            "a plugin for `{}` from {before} is already installed; use `--replace` to replace it with the one from `{source}`",
            descriptor.slug
        );
    }
    let folder = file.parent().unwrap_or(Path::new(""));
    if let Some(other) = other_file(folder, file, &descriptor.slug, lock, &config.limits).await? {
        bail!(
            "`{}` is a plugin for `{slug}` too, and only one file can be served: remove it, or name it `{slug}.wasm` if it is the \
             one to be replaced",
            other.display(),
            slug = descriptor.slug
        );
    }
    Ok(())
}

/// Says so if the lock file, which this command has not written, does not pin the plugin.
fn tell_unless_pinned(lock: &PluginLock, path: &Path, file: &Path, plugin: &Plugin) {
    let pin = lock.get(&plugin.descriptor().slug);
    if pin.is_none_or(|pin| pin.sha256 != plugin.digest()) {
        output::line(&format!(
            "`{}` does not pin this file: review it, and pin it with `sendflowr plugin pin {}`",
            path.display(),
            file.display()
        ));
    }
}

/// Fails if the configured keys require a signature, and this is none of theirs.
fn require_trust(
    config: &PluginsConfig,
    bytes: &[u8],
    signature: Option<&str>,
    source: &str,
) -> anyhow::Result<()> {
    if config.trusted_keys.is_empty() {
        return Ok(());
    }
    let Some(signature) = signature else {
        bail!("`{source}` is not signed, and `host.plugins.trusted_keys` requires a signature");
    };
    let checked = config.trusted_keys.check(bytes, signature);
    checked.map_err(|error| anyhow::anyhow!("`{source}` {error}"))
}

/// Returns whether there is a plugin for the slug, in the file or pinned, other than these bytes with this digest.
fn is_other(file: &Path, bytes: &[u8], pin: Option<&Pin>, digest: &str) -> anyhow::Result<bool> {
    let installed = match fs::read(file) {
        Ok(installed) => Some(installed),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| format!("cannot read `{}`", file.display())),
    };
    Ok(installed.is_some_and(|installed| installed != bytes) || pin.is_some_and(|pin| pin.sha256 != digest))
}

/// Returns another file in the folder with this slug. The digest of a pinned file gives its slug, all others have to be compiled;
/// a file that the host would not serve has no slug.
async fn other_file(
    folder: &Path,
    file: &Path,
    slug: &str,
    lock: Option<&PluginLock>,
    limits: &Limits,
) -> anyhow::Result<Option<PathBuf>> {
    let mut unknown = Vec::new();
    for other in plugin_files(folder)? {
        let may_serve = fs::metadata(&other)
            .is_ok_and(|metadata| metadata.is_file() && metadata.len() <= limits.file_bytes);
        if other == file || !may_serve {
            continue;
        }
        let bytes = fs::read(&other).with_context(|| format!("cannot read `{}`", other.display()))?;
        let digest = oci::Digest::of(&bytes);
        let pinned = lock.and_then(|lock| lock.pins().find(|(_, pin)| pin.sha256 == digest.hex()));
        match pinned {
            Some((pinned, _)) if pinned == slug => return Ok(Some(other)),
            Some(_) => {}
            None => unknown.push(other),
        }
    }
    let (slug, limits) = (slug.to_owned(), limits.clone());
    // Compiling occupies a thread for a while.
    let found = tokio::task::spawn_blocking(move || {
        let loader = PluginLoader::try_new(&limits)?;
        let has_slug = |other: &PathBuf| {
            let plugin = loader.load(other);
            plugin.is_ok_and(|plugin| plugin.descriptor().slug == slug)
        };
        anyhow::Ok(unknown.into_iter().find(has_slug))
    });
    found.await?
}

/// Returns whether the pinned plugin was pulled from the repository of this reference. The slug alone proves nothing: a plugin
/// chooses its own.
fn is_of(pin: &Pin, reference: &Reference) -> bool {
    let source = pin.source.as_deref().map(str::parse::<Reference>);
    source.is_some_and(|source| source.is_ok_and(|source| source.is_same_repository(reference)))
}

/// Pushes a plugin that the host would serve, and its signature if there is one.
///
/// # Errors
/// Fails if the host would not serve the plugin, the configured keys do not trust its signature, or the registry fails or refuses.
/// The tag then names what it did before.
pub(crate) async fn push(global: Global, args: PushArgs) -> anyhow::Result<ExitCode> {
    let config = global.plugins_config()?;
    let (Some(tag), None) = (args.target.tag.clone(), &args.target.digest) else {
        bail!(
            "`{}` must have a tag and no digest: the digest is known only after the push",
            args.target
        );
    };
    let (plugin, examination) = examine(&args.file, &config.limits).await?;
    let bytes = fs::read(&args.file).with_context(|| format!("cannot read `{}`", args.file.display()))?;
    let signature = match fs::metadata(signature_path(&args.file)) {
        Ok(metadata) if metadata.len() > MOST_SIGNATURE_BYTES => {
            bail!(
                "`{}` is too long for a signature",
                signature_path(&args.file).display()
            )
        }
        Ok(_) => Some(fs::read_to_string(signature_path(&args.file)).context("cannot read the signature")?),
        Err(_) => None,
    };
    let source = args.file.display().to_string();
    require_trust(&config, &bytes, signature.as_deref(), &source)?;
    let mut client = connect(&global, &args.target, Operation::Push, &args.registry)?;
    let version = &plugin.descriptor().version;
    let pushing = oci::push(
        &mut client,
        &tag,
        &bytes,
        &examination.contract,
        &examination.imports,
        version,
        signature.as_deref(),
    );
    let manifest = within(&args.registry, pushing)
        .await
        .with_context(|| format!("cannot push to `{}`", args.target))?;
    output::line(&format!(
        "`{}` is {} {version}{}",
        args.target.at(&manifest),
        plugin.descriptor().slug,
        if signature.is_some() {
            ", with its signature"
        } else {
            ""
        }
    ));
    Ok(ExitCode::SUCCESS)
}

fn connect(
    global: &Global,
    reference: &Reference,
    operation: Operation,
    registry: &RegistryArgs,
) -> anyhow::Result<Client> {
    let docker = Credentials::docker_file();
    let credentials = Credentials::find(global.load()?.registry, &reference.registry, docker.as_deref())?;
    Client::new(reference, operation, credentials, registry.plain_http)
}

async fn within<T>(
    registry: &RegistryArgs,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let limit = Duration::from_secs(registry.timeout);
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => bail!("it takes longer than {} s (`--timeout`)", registry.timeout),
    }
}

/// Creates a file in the folder, under a name that the host ignores.
fn beside(folder: &Path, bytes: &[u8]) -> anyhow::Result<NamedTempFile> {
    let cannot = || format!("cannot write into `{}`", folder.display());
    let mut file = tempfile::Builder::new()
        .prefix(".pulled-")
        .suffix(".new")
        // Like files that `cp` creates: the host may run as another user.
        .permissions(Permissions::from_mode(0o644))
        .tempfile_in(folder)
        .with_context(cannot)?;
    file.write_all(bytes).with_context(cannot)?;
    Ok(file)
}

/// Puts a plugin and its signature in place.
///
/// # Errors
/// Fails if a file cannot be replaced. Both are then left as they were.
fn install(plugin: NamedTempFile, signature: Option<NamedTempFile>, file: &Path) -> anyhow::Result<()> {
    let beside_it = signature_path(file);
    let folder = file.parent().unwrap_or(Path::new("."));
    let former = match fs::read(&beside_it) {
        Ok(former) => Some(beside(folder, &former)?),
        Err(_) => None,
    };
    // The signature first: a host that requires it loads the plugin when both are there.
    match signature {
        Some(signature) => put(signature, &beside_it)?,
        // A signature of another version would be worse than none.
        None => drop(fs::remove_file(&beside_it)),
    }
    let Err(error) = put(plugin, file) else {
        return Ok(());
    };
    match former {
        Some(former) => put(former, &beside_it)?,
        None => drop(fs::remove_file(&beside_it)),
    }
    Err(error)
}

/// Makes the lock file what it was.
fn restore(writer: &LockWriter, before: Option<&PluginLock>) -> anyhow::Result<()> {
    match before {
        Some(before) => writer.write(before)?,
        None => fs::remove_file(writer.path())?,
    }
    Ok(())
}

fn put(file: NamedTempFile, path: &Path) -> anyhow::Result<()> {
    file.persist(path)
        .with_context(|| format!("cannot write `{}`", path.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_that_cannot_be_put_in_place_leaves_the_former_signature() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let file = folder.join("acme.wasm");
        fs::create_dir_all(file.join("in the way")).unwrap();
        let install = |signature: Option<&str>| {
            let signature = signature.map(|text| beside(folder, text.as_bytes()).unwrap());
            install(beside(folder, b"new").unwrap(), signature, &file).unwrap_err();
        };
        install(Some("new"));
        assert!(!signature_path(&file).exists());
        fs::write(signature_path(&file), "former").unwrap();
        for signature in [Some("new"), None] {
            install(signature);
            assert_eq!(fs::read_to_string(signature_path(&file)).unwrap(), "former");
        }
        assert_eq!(fs::read_dir(folder).unwrap().count(), 2, "nothing else stays");
    }
}
