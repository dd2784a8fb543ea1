import type {
  JupyterFrontEnd,
  JupyterFrontEndPlugin
} from '@jupyterlab/application';
import { INotebookTracker } from '@jupyterlab/notebook';
import { SandboxEvents } from '../events';
import { SandboxModel } from '../model';
import { SandboxService } from '../service';
import { SandboxStore } from '../store';
import { ISandboxModel, ISandboxService, ISandboxStore } from '../tokens';

export const service: JupyterFrontEndPlugin<ISandboxService> = {
  id: 'jupyter-vsandbox:service',
  description: 'Asks the server about the machines behind notebook kernels.',
  autoStart: true,
  provides: ISandboxService,
  activate: (app: JupyterFrontEnd) =>
    new SandboxService(app.serviceManager.serverSettings)
};

export const store: JupyterFrontEndPlugin<ISandboxStore> = {
  id: 'jupyter-vsandbox:store',
  description: 'Keeps what the server tells of machines.',
  autoStart: true,
  requires: [ISandboxService],
  provides: ISandboxStore,
  activate: (app: JupyterFrontEnd, sandboxes: ISandboxService) =>
    new SandboxStore(
      sandboxes,
      new SandboxEvents(app.serviceManager.serverSettings)
    )
};

export const model: JupyterFrontEndPlugin<ISandboxModel> = {
  id: 'jupyter-vsandbox:model',
  description: 'Knows the machine behind the notebook in front.',
  autoStart: true,
  requires: [ISandboxStore],
  // Notebook 7 has pages without notebooks.
  optional: [INotebookTracker],
  provides: ISandboxModel,
  activate: (
    app: JupyterFrontEnd,
    sandboxes: ISandboxStore,
    tracker: INotebookTracker | null
  ) => {
    const known = new SandboxModel(sandboxes);
    const follow = () => {
      known.context = tracker?.currentWidget?.sessionContext ?? null;
    };
    tracker?.currentChanged.connect(follow);
    follow();
    return known;
  }
};
