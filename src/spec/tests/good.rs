//! Files that load: the golden form of their stacks.

use expect_test::expect;

use super::{brief, stack_of};

#[test]
fn a_small_native_file() {
    let stack = stack_of(&[(
        "stack.yaml",
        r#"
name: shop
images:
  app: {builtin: whoami}
  db: {pull: docker.io/library/postgres:17}
containers:
  db:
    image: db
    volumes: ["data:/var/lib/postgresql/data"]
    networks: [back]
    healthcheck: {test: ["CMD", "pg_isready"], interval: 5s, on_failure: restart}
  web:
    image: app
    depends_on: {db: {condition: service_healthy}}
    ports: ["8080:80"]
    networks: [front, back]
    update: {order: start-first}
networks: {front: {}, back: {internal: true}}
volumes: {data: {protect: true}}
"#,
    )]);
    expect![[r#"
        {
          "containers": {
            "db": {
              "attach": true,
              "healthcheck": {
                "interval_ms": 5000,
                "on_failure": "restart",
                "test": {
                  "exec": [
                    "pg_isready"
                  ]
                }
              },
              "image": {
                "reference": "docker.io/library/postgres:17",
                "source": {
                  "pull": {
                    "reference": "docker.io/library/postgres:17"
                  }
                }
              },
              "mounts": [
                {
                  "kind": {
                    "volume": {
                      "name": "data"
                    }
                  },
                  "target": "/var/lib/postgresql/data"
                }
              ],
              "networks": {
                "back": {
                  "gw_priority": 0,
                  "priority": 0
                }
              },
              "replicas": 1,
              "restart": {
                "policy": "no"
              }
            },
            "web": {
              "attach": true,
              "depends_on": {
                "db": {
                  "condition": "healthy",
                  "required": true
                }
              },
              "image": {
                "reference": "builtin:whoami",
                "source": {
                  "builtin": "whoami"
                }
              },
              "networks": {
                "back": {
                  "gw_priority": 0,
                  "priority": 0
                },
                "front": {
                  "gw_priority": 0,
                  "priority": 0
                }
              },
              "ports": [
                {
                  "host_ip": "127.0.0.1",
                  "mode": "ingress",
                  "protocol": "tcp",
                  "published": {
                    "end": 8080,
                    "start": 8080
                  },
                  "target": 80
                }
              ],
              "replicas": 1,
              "restart": {
                "policy": "no"
              },
              "update": {
                "order": "start-first"
              }
            }
          },
          "directory": "/srv/shop",
          "files": [
            "/srv/shop/stack.yaml"
          ],
          "format": "native",
          "images": {
            "app": {
              "reference": "builtin:whoami",
              "source": {
                "builtin": "whoami"
              }
            },
            "db": {
              "reference": "docker.io/library/postgres:17",
              "source": {
                "pull": {
                  "reference": "docker.io/library/postgres:17"
                }
              }
            }
          },
          "name": "shop",
          "networks": {
            "back": {
              "internal": true,
              "name": "shop_back"
            },
            "front": {
              "name": "shop_front"
            }
          },
          "volumes": {
            "data": {
              "name": "shop_data",
              "protect": true
            }
          }
        }"#]]
    .assert_eq(&brief(&stack));
}

#[test]
fn a_small_compose_file() {
    let stack = stack_of(&[(
        "docker-compose.yml",
        r#"
version: "3.8"
services:
  web:
    image: nginx:${TAG}
    ports: ["8080:80", "127.0.0.1:8443:443"]
    environment:
      - MODE=prod
      - TOKEN
      - UNSET
    volumes:
      - ./html:/usr/share/nginx/html:ro
      - ~/certs:/certs
      - cache:/var/cache
    restart: unless-stopped
    command: nginx -g 'daemon off;'
    healthcheck:
      test: curl -f http://localhost || exit 1
      interval: 1m30s
volumes:
  cache:
"#,
    )]);
    expect![[r#"
        {
          "containers": {
            "web": {
              "attach": true,
              "command": [
                "nginx",
                "-g",
                "daemon off;"
              ],
              "environment": {
                "MODE": "prod",
                "TOKEN": "s3cret"
              },
              "healthcheck": {
                "interval_ms": 90000,
                "on_failure": "none",
                "test": {
                  "shell": "curl -f http://localhost || exit 1"
                }
              },
              "image": {
                "reference": "nginx:1.27",
                "source": {
                  "pull": {
                    "reference": "nginx:1.27"
                  }
                }
              },
              "mounts": [
                {
                  "kind": {
                    "bind": {
                      "create_host_path": true,
                      "propagation": "rprivate",
                      "recursive": "enabled",
                      "source": "/srv/shop/html"
                    }
                  },
                  "read_only": true,
                  "target": "/usr/share/nginx/html"
                },
                {
                  "kind": {
                    "bind": {
                      "create_host_path": true,
                      "propagation": "rprivate",
                      "recursive": "enabled",
                      "source": "/home/ann/certs"
                    }
                  },
                  "target": "/certs"
                },
                {
                  "kind": {
                    "volume": {
                      "name": "cache"
                    }
                  },
                  "target": "/var/cache"
                }
              ],
              "networks": {
                "default": {
                  "gw_priority": 0,
                  "priority": 0
                }
              },
              "ports": [
                {
                  "mode": "ingress",
                  "protocol": "tcp",
                  "published": {
                    "end": 8080,
                    "start": 8080
                  },
                  "target": 80
                },
                {
                  "host_ip": "127.0.0.1",
                  "mode": "ingress",
                  "protocol": "tcp",
                  "published": {
                    "end": 8443,
                    "start": 8443
                  },
                  "target": 443
                }
              ],
              "replicas": 1,
              "restart": {
                "policy": "unless_stopped"
              }
            }
          },
          "directory": "/srv/shop",
          "files": [
            "/srv/shop/docker-compose.yml"
          ],
          "format": "compose",
          "name": "shop",
          "networks": {
            "default": {
              "name": "shop_default"
            }
          },
          "volumes": {
            "cache": {
              "name": "shop_cache"
            }
          }
        }"#]]
    .assert_eq(&brief(&stack));
}

/// The words that Compose does not have stand below `x-stack` there, and mean the same.
#[test]
fn our_words_in_a_compose_file_mean_the_same() {
    let native = r#"
images: {app: {builtin: whoami}, tools: {rootfs: ./tools}, db: {archive: ./db.tar}}
containers:
  web:
    image: app
    replicas: 2
    update: {order: start-first, parallelism: 2}
    healthcheck: {test: [CMD, /whoami, health], on_failure: restart}
    volumes: ["data:/data"]
  tools: {image: tools}
  db: {image: db}
volumes: {data: {protect: true}}
"#;
    let compose = r#"
x-stack: {images: {app: {builtin: whoami}, tools: {rootfs: ./tools}, db: {archive: ./db.tar}}}
services:
  web:
    image: app
    x-stack: {replicas: 2, update: {order: start-first, parallelism: 2}}
    healthcheck: {test: [CMD, /whoami, health], x-stack: {on_failure: restart}}
    volumes: ["data:/data"]
  tools: {image: tools}
  db: {image: db}
volumes: {data: {x-stack: {protect: true}}}
"#;
    let files = [("tools/etc/os-release", ""), ("db.tar", "")];
    let with = |name: &'static str, text: &'static str| stack_of(&[&[(name, text)][..], &files].concat());
    let (native, compose) = (with("stack.yaml", native), with("compose.yaml", compose));
    assert_eq!(native.containers, compose.containers);
    assert_eq!((native.images, native.volumes), (compose.images, compose.volumes));
    // In a Compose file's own place they are words that nobody knows, but for those of extensions.
    let wrong = super::faults_of(&[("compose.yaml", "services: {web: {image: x, replicas: 2, x-stack: {updte: {}}}}")]);
    assert!(wrong.contains("unknown key `replicas`") && wrong.contains("did you mean `update`?"), "{wrong}");
}
