//! Owns `hearth serve` as a library: opens all sockets, or reports those it cannot open, and runs
//! the servers.
//! Never prints.

pub mod current_lab;
mod images;
mod sockets;
mod view;

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use listenfd::ListenFd;
use nix::ifaddrs::getifaddrs;
use tokio::task::JoinSet;

pub use self::images::{Images, Pin};
use self::sockets::{Pair, Sockets};
use self::view::View;
use super::net::limits;
use super::{dhcp, http};
use crate::error::Fault;
use crate::netboot::net::access::Access;
use crate::netboot::nfs;
use crate::netboot::nfs::exports::Exports;
use crate::netboot::nfs::mount::Mount;
use crate::netboot::nfs::portmap::Portmap;
use crate::netboot::rpc::Program;
use crate::netboot::rpc::service::Service;
use crate::netboot::tftp::Tftp;
use crate::recipe::{LabSettings, LoadedLab, Network};

/// Interval for recording which images are used, and for dropping unused ones.
const TIDY: Duration = Duration::from_secs(60);

/// The open sockets and images, before serving starts.
pub struct Server {
    lab: LoadedLab,
    images: Arc<Images>,
    access: Arc<Access>,
    exports: Arc<Exports>,
    view: Arc<View>,
    sockets: Sockets,
    /// Further HTTP routes.
    api: Router,
}

impl Server {
    /// Opens the images below `builds` and all sockets of the lab. Sockets passed by systemd
    /// (`LISTEN_FDS`) are used if their ports match. Must be called inside a Tokio runtime.
    ///
    /// # Errors
    /// If ports cannot be opened, each with its remedy; if there is nothing to serve.
    pub fn open(lab: LoadedLab, builds: &Path, mut inherited: ListenFd) -> Result<Server> {
        limits::raise();
        let sockets = Sockets::open(&lab.settings, &mut inherited)?;
        let exports = Arc::new(Exports::default());
        let images = Arc::new(Images::open(builds, exports.clone())?);
        let view = Arc::new(View::new(lab.clone(), images.clone()));
        let boards = view.clone();
        let access = Access::new(allowed(&lab.settings)?);
        let access = Arc::new(access.with_boards(move |host| boards.is_board(host)));
        Ok(Server {
            lab,
            images,
            access,
            exports,
            view,
            sockets,
            api: Router::new(),
        })
    }

    /// Adds HTTP routes, such as `/api/v1`; they are limited to the allowed networks as well.
    #[must_use]
    pub fn with_routes(mut self, routes: Router) -> Server {
        self.api = self.api.merge(routes);
        self
    }

    /// Services and addresses, a line each, for the user.
    pub fn status(&self) -> Vec<String> {
        let settings = &self.lab.settings;
        let ports = settings.ports;
        let mut lines = vec![format!(
            "lab {} at {}: TFTP {}, NFS {}, MOUNT {}, portmapper {}, HTTP {}",
            settings.name,
            settings.address,
            ports.tftp,
            ports.nfs,
            ports.mount,
            match ports.portmap {
                0 => "off".to_string(),
                port => port.to_string(),
            },
            ports.http
        )];
        lines.extend(limits::warning());
        if settings.nfs_udp {
            lines.push(
                "NFS over UDP is on (nfs-udp): its answers go wherever a forged request says"
                    .into(),
            );
        }
        if let Some(dhcp) = &settings.dhcp {
            lines.push(format!("DHCP for the lab's boards on {}", dhcp.interface));
        }
        let networks: Vec<String> = self
            .access
            .networks()
            .iter()
            .map(Network::to_string)
            .collect();
        lines.push(format!("for {}", networks.join(", ")));
        let images = self.images.listing();
        for board in &self.lab.boards {
            let image = board
                .recipe
                .as_deref()
                .and_then(|recipe| self.images.current(recipe).ok());
            lines.push(match image {
                Some(export) => format!("{} ({}) boots {}", board.name, board.mac, export.id),
                None => format!(
                    "{} ({}) has no image yet: recipe {}",
                    board.name,
                    board.mac,
                    board.recipe.as_deref().unwrap_or("none")
                ),
            });
        }
        if images.is_empty() {
            lines.push("no image yet: the first one that is built will be served".into());
        }
        for (id, _) in images {
            lines.push(format!("image /{id}"));
        }
        lines
    }

    /// The list of images and boards, as JSON, for a route that decides who may see it.
    pub fn index(&self) -> impl Fn() -> Result<Vec<u8>> + Send + Sync + 'static {
        let view = self.view.clone();
        move || view.index()
    }

    /// The images, for callers that change them.
    pub fn images(&self) -> Arc<Images> {
        self.images.clone()
    }

    /// Serves until `stop` completes.
    ///
    /// # Errors
    /// If one of the servers ends by itself.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<()> {
        let Server {
            lab,
            images,
            access,
            exports,
            view,
            sockets,
            api,
        } = self;
        let mut tasks = JoinSet::new();
        let rpc = Rpc {
            exports,
            images: images.clone(),
            access: access.clone(),
        };
        let portmap = sockets.portmap;
        for (service, (tcp, udp)) in
            rpc.services(&lab.settings, sockets.nfs, sockets.mount, portmap)
        {
            tasks.spawn(service.clone().serve_tcp(tcp));
            if let Some(udp) = udp {
                tasks.spawn(service.serve_udp(udp));
            }
        }
        let tftp = Tftp {
            files: view.clone(),
            access: access.clone(),
        };
        tasks.spawn(tftp.serve(sockets.tftp));
        if let Some(socket) = sockets.dhcp {
            let view = view.clone();
            tasks.spawn(dhcp::serve(socket, move || view.lab()));
        }
        let routes = http::restrict(api.merge(http::files(view)), access.clone());
        tasks.spawn(http::serve(sockets.http, access, routes));
        tasks.spawn(async move {
            loop {
                tokio::time::sleep(TIDY).await;
                images.refresh();
                images.tidy();
            }
        });
        tokio::select! {
            () = stop => Ok(()),
            ended = tasks.join_next() => {
                ended.transpose().context("a server failed")?;
                Err(Fault::infrastructure("a server ended by itself").into())
            }
        }
    }
}

/// State shared by the RPC programs.
struct Rpc {
    exports: Arc<Exports>,
    images: Arc<Images>,
    access: Arc<Access>,
}

impl Rpc {
    /// NFS, MOUNT and the portmapper with their sockets; MOUNT shares NFS' socket if it has none of
    /// its own.
    fn services(
        &self,
        lab: &LabSettings,
        nfs_pair: Pair,
        mount: Option<Pair>,
        portmap: Option<Pair>,
    ) -> Vec<(Service, Pair)> {
        let service = |name, programs: Vec<Arc<dyn Program>>| Service {
            name,
            programs: programs.into(),
            access: self.access.clone(),
        };
        let images = self.images.clone();
        let mut with_nfs = nfs::programs(&self.exports);
        let mount_program = Arc::new(Mount {
            exports: self.exports.clone(),
            access: self.access.clone(),
            find: Box::new(move |id| {
                images.by_id(id);
            }),
        });
        let mut services = Vec::new();
        match mount {
            Some(pair) => services.push((service("mount", vec![mount_program]), pair)),
            None => with_nfs.push(mount_program),
        }
        services.push((service("nfs", with_nfs), nfs_pair));
        if let Some(pair) = portmap {
            let ports = lab.ports;
            let program = Portmap::over(ports.nfs, ports.mount, ports.portmap, lab.nfs_udp);
            services.push((service("portmap", vec![Arc::new(program)]), pair));
        }
        services
    }
}

/// The allowed networks: those in the lab file, else loopback, the boards' own network and the host
/// itself.
fn allowed(lab: &LabSettings) -> Result<Vec<Network>> {
    if !lab.allow.is_empty() {
        let parse = |text: &String| text.parse().map_err(anyhow::Error::msg);
        return lab.allow.iter().map(parse).collect();
    }
    let mut networks = vec![
        Network::of(Ipv4Addr::LOCALHOST, 8),
        Network::of(lab.address, 32),
    ];
    match &lab.dhcp {
        Some(dhcp) => networks.push(dhcp.network.parse().map_err(anyhow::Error::msg)?),
        None => networks.extend(network_of(lab.address)),
    }
    let mut distinct = Vec::new();
    for network in networks {
        if !distinct.contains(&network) {
            distinct.push(network);
        }
    }
    Ok(distinct)
}

/// The network of the interface that has the address.
fn network_of(address: Ipv4Addr) -> Option<Network> {
    let mut interfaces = getifaddrs().ok()?;
    interfaces.find_map(|interface| {
        let ip = interface.address?.as_sockaddr_in()?.ip();
        let mask = interface.netmask?.as_sockaddr_in()?.ip();
        let prefix = mask.to_bits().leading_ones() as u8;
        (ip == address).then(|| Network::of(address, prefix))
    })
}
