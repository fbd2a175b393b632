# make install PREFIX=/usr/local DESTDIR= puts these in place; make uninstall with the same two takes away exactly these.
INSTALL_ROOT = $(DESTDIR)$(abspath $(PREFIX))
INSTALLED_HEADERS = $(HEADERS)
INSTALLED_DOCS := README.md LICENSE CHANGELOG.md CONTRIBUTING.md $(wildcard docs/*.md docs/*.png docs/*.svg docs/lessons/*.md docs/lessons/*.png docs/lessons/models/*.json examples/*.c)
INSTALLED_SHELL := share/man/man1/brim.1 share/bash-completion/completions/brim share/zsh/site-functions/_brim
INSTALLED = bin/brim lib/libbrim.a lib/libbrim.so.$(VERSION) lib/libbrim.so.$(SOVERSION) lib/libbrim.so lib/pkgconfig/brim.pc \
             $(INSTALLED_SHELL) $(INSTALLED_HEADERS:%=include/brim/%) $(INSTALLED_DOCS:%=share/doc/brim/%)
# Where they were built (make mpi, make nccl); uninstall takes away those that may have been.
INSTALLED_PLUGINS = $(notdir $(wildcard $(BUILD)/libbrim-mpi*.so $(BUILD)/libbrim-nccl.so))
PLUGINS := $(addprefix lib/libbrim-,mpi.so mpi-openmpi.so mpi-mpich.so mpi-abi.so nccl.so)
# Ours alone, innermost first; gone when they are empty. bin, lib and include belong to the system.
INSTALLED_FOLDERS = $(filter-out include/brim/,$(sort $(dir $(INSTALLED_HEADERS:%=include/brim/%)))) include/brim/ \
                     share/doc/brim/docs/lessons/models/ share/doc/brim/docs/lessons/ share/doc/brim/docs/ share/doc/brim/examples/ share/doc/brim/

install: lib cli
	$(call say,COPY,"to $(INSTALL_ROOT)")
	$(Q)install -d $(addprefix "$(INSTALL_ROOT)"/,bin lib/pkgconfig $(dir $(INSTALLED_SHELL)) $(INSTALLED_FOLDERS))
	$(Q)install -m 755 $(BUILD)/brim "$(INSTALL_ROOT)"/bin/brim
	$(Q)install -m 644 $(BUILD)/libbrim.a "$(INSTALL_ROOT)"/lib/libbrim.a
	$(Q)install -m 644 $(BUILD)/libbrim.so "$(INSTALL_ROOT)"/lib/libbrim.so.$(VERSION)
	$(Q)ln -sf libbrim.so.$(VERSION) "$(INSTALL_ROOT)"/lib/libbrim.so.$(SOVERSION)
	$(Q)ln -sf libbrim.so.$(SOVERSION) "$(INSTALL_ROOT)"/lib/libbrim.so
	$(Q)for plugin in $(INSTALLED_PLUGINS); do \
	    install -m 644 $(BUILD)/$$plugin "$(INSTALL_ROOT)"/lib/$$plugin || exit 1; done
	$(Q)sed -e 's|@PREFIX@|$(abspath $(PREFIX))|' -e 's|@VERSION@|$(VERSION)|' brim.pc.in >"$(INSTALL_ROOT)"/lib/pkgconfig/brim.pc
	$(Q)chmod 644 "$(INSTALL_ROOT)"/lib/pkgconfig/brim.pc
	$(Q)install -m 644 docs/brim.1 "$(INSTALL_ROOT)"/share/man/man1/brim.1
	$(Q)install -m 644 tools/completion/brim.bash "$(INSTALL_ROOT)"/share/bash-completion/completions/brim
	$(Q)install -m 644 tools/completion/_brim "$(INSTALL_ROOT)"/share/zsh/site-functions/_brim
	$(Q)for header in $(INSTALLED_HEADERS); do \
	    install -m 644 $$header "$(INSTALL_ROOT)"/include/brim/$$header || exit 1; done
	$(Q)for doc in $(INSTALLED_DOCS); do install -m 644 $$doc "$(INSTALL_ROOT)"/share/doc/brim/$$doc || exit 1; done

uninstall:
	$(Q)rm -f $(addprefix "$(INSTALL_ROOT)"/,$(INSTALLED) $(PLUGINS))
	$(Q)rmdir $(addprefix "$(INSTALL_ROOT)"/,$(INSTALLED_FOLDERS)) 2>/dev/null || true
