//! The words of `stack plugin`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{InspectOne, List};

#[derive(Clone, Debug, Subcommand)]
pub enum PluginCommand {
    /// List installed plugins
    #[command(visible_alias = "list")]
    Ls(List),
    /// Fetch a plugin from a registry, give it what it asks for, and run it
    Install(PluginInstall),
    /// Show everything known about plugins
    Inspect(InspectOne),
    /// Run a plugin, now and after each boot
    Enable(PluginEnable),
    /// End a plugin, until it is enabled
    Disable(PluginDisable),
    /// Change what a plugin lets be set; it must be disabled
    Set(PluginSet),
    /// Replace a plugin by what the registry has now; it must be disabled
    Upgrade(PluginUpgrade),
    /// Remove plugins with all that they keep
    #[command(visible_alias = "remove")]
    Rm(PluginRm),
    /// Make a plugin of a folder with config.json and rootfs
    Create(PluginCreate),
    /// Send a plugin to the registry that its name says
    Push(PluginPush),
}

#[derive(Clone, Debug, Args)]
pub struct PluginInstall {
    /// Where a registry has it
    pub plugin: String,
    /// What it lets be set
    #[arg(value_name = "KEY=VALUE")]
    pub settings: Vec<String>,
    /// The name that it goes by here
    #[arg(long, value_name = "NAME")]
    pub alias: Option<String>,
    /// Don't run it yet
    #[arg(long)]
    pub disable: bool,
    /// Give it all that it asks for, without a question
    #[arg(long)]
    pub grant_all_permissions: bool,
}

#[derive(Clone, Debug, Args)]
pub struct PluginEnable {
    /// The plugin's name
    pub plugin: String,
    /// How many seconds it may take to listen
    #[arg(long, value_name = "SECONDS", default_value = "30")]
    pub timeout: u64,
}

#[derive(Clone, Debug, Args)]
pub struct PluginDisable {
    /// The plugin's name
    pub plugin: String,
    /// Although volumes of it are there
    #[arg(short, long)]
    pub force: bool,
}

#[derive(Clone, Debug, Args)]
pub struct PluginSet {
    /// The plugin's name
    pub plugin: String,
    /// A variable, `NAME.source` of a mount, `NAME.path` of a device, or `args`
    #[arg(required = true, value_name = "KEY=VALUE")]
    pub settings: Vec<String>,
}

#[derive(Clone, Debug, Args)]
pub struct PluginUpgrade {
    /// The plugin's name
    pub plugin: String,
    /// Where a registry has the new one; where the old one came from when absent
    pub remote: Option<String>,
    /// Give it all that it asks for, without a question
    #[arg(long)]
    pub grant_all_permissions: bool,
    /// Although it is another plugin
    #[arg(long)]
    pub skip_remote_check: bool,
}

#[derive(Clone, Debug, Args)]
pub struct PluginRm {
    /// The plugins' names
    #[arg(required = true, value_name = "PLUGIN")]
    pub plugins: Vec<String>,
    /// Although they are enabled, or volumes of them are there
    #[arg(short, long)]
    pub force: bool,
}

#[derive(Clone, Debug, Args)]
pub struct PluginCreate {
    /// The plugin's name
    pub plugin: String,
    /// The folder
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}

#[derive(Clone, Debug, Args)]
pub struct PluginPush {
    /// The plugin's name
    pub plugin: String,
}
