"""What import-linter does not see: it compares a package's modules with each other, never with the package itself."""

import grimp


def test_no_package_imports_a_module_of_its_own_that_imports_the_package() -> None:
    graph = grimp.build_graph("dockyard", exclude_type_checking_imports=True)
    packages = [module for module in graph.modules if graph.find_children(module)]
    assert len(packages) > 30
    assert not [
        (package, module)
        for package in packages
        for module in graph.find_modules_directly_imported_by(package)
        if module.startswith(f"{package}.") and graph.chain_exists(importer=module, imported=package)
    ]
