//go:build extended

package main

import (
	"net/http"

	"github.com/vmware/govmomi/simulator"
)

// POST /-/fail?task=CloneVm&fault=NoDiskSpace: the next such task fails so.
// POST /-/lack?privilege=Network.Assign: nobody has this privilege, and all have all others.
// POST /-/gpu?profile=grid_t4-4q&memory=1&suspend=0: all hosts have it, keep memory, and cannot suspend.
// POST /-/last?ms=500: tasks from now on are seen as running for so long.
func init() {
	extend = func(mux *http.ServeMux) {
		mux.HandleFunc("/-/", simulator.Control)
	}
}
