"""What clients may ask of this door, by BuildKit's names (caps.go of frontend/gateway/pb and of solver/pb)."""

FRONTEND_CAPABILITIES = (
    "solve.base solve.inlinereturn resolveimage resolveimage.resolvemode readfile return returnmap readdir statfile "
    "importcaches proto.refarray reference.output frontend.inputs gateway.solve.metadata frontend.caps "
    "gateway.solve.evaluate gateway.evaluate gateway.warnings source.metaresolver"
).split()
LLB_CAPABILITIES = (
    "source.image source.image.resolvemode source.local source.local.unique source.local.sessionid "
    "source.local.includepatterns source.local.followpaths source.local.excludepatterns source.local.sharedkeyhint "
    "source.git source.git.keepgitdir source.git.fullurl source.git.subdir source.git.checksum source.http "
    "source.http.checksum source.http.perm source.buildop.llbfilename exec.meta.base exec.meta.cgroup.parent "
    "exec.meta.network exec.meta.proxyenv exec.meta.security exec.meta.setsdefaultpath exec.meta.ulimit "
    "exec.meta.removemountstubs.recursive exec.mount.bind exec.mount.bind.readwrite-nooutput exec.mount.cache "
    "exec.mount.cache.sharing exec.mount.selector exec.mount.tmpfs exec.mount.tmpfs.size exec.mount.secret "
    "exec.mount.ssh exec.cgroup exec.secretenv file.base file.rm.wildcard file.copy.includeexcludepatterns "
    "constraints platform meta.ignorecache meta.description meta.exportcache exporter.multiple "
    "exporter.image.annotations exporter.image.attestations exporter.sourcedateepoch "
    "source.ocilayout source.http.header source.http.auth soruce.http.uidgid source.policy exec.validexitcode "
    "file.rm.nofollowsymlink file.copy.alwaysreplaceexistingdestpaths file.copy.modestring file.symlink.create "
    "mergeop diffop"
).split()
